// What search.inl needs from outside: kernel files include nothing themselves.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/simd.h"
#include "nearest_neighbors/tree.h"

#if ZOO_SIMD_X86
#include <immintrin.h>
#endif
