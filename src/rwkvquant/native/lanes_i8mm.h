// lanes.h in NEON with the matrix multiplication of int8 (armv8.2-a+i8mm): lanes_neon.h with one more instruction.
#pragma once

#define RWKVQUANT_I8MM
#include "lanes_neon.h"
