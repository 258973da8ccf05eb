// The parts of the Python module; bindings.cpp puts them together.
#pragma once

#include <nanobind/nanobind.h>

namespace rwkvquant {

void bind_matrix(nanobind::module_& module);
void bind_product(nanobind::module_& module);
void bind_engine(nanobind::module_& module);
void bind_image(nanobind::module_& module);
void bind_steps(nanobind::module_& module);
void bind_workshop(nanobind::module_& module);

}  // namespace rwkvquant
