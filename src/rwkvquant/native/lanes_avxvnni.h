// lanes.h in AVX2 with AVX-VNNI: lanes_avx2.h with other dot products.
#pragma once

#define RWKVQUANT_DOT "dot_vnni.h"
#define RWKVQUANT_NIBBLES "nibbles_stay.h"
#include "lanes_avx2.h"
