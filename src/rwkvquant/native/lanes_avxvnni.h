// lanes.h in AVX2 with AVX-VNNI: lanes_avx2.h with other dot products.
#pragma once

#define RWKVQUANT_DOT "dot_vnni.h"
#include "lanes_avx2.h"
