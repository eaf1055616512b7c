// Compiles one kernel file for every SIMD level. In <operator>/cpu.cpp, after every other #include:
//
//   #define ZOO_SIMD_KERNEL "<operator>/kernel.inl"
//   #include "common/for_each_simd_level.h"
//
// The kernel file puts its code in `namespace zoo::<operator>::ZOO_SIMD_LEVEL { ... }`, sizes its vectors by
// ZOO_SIMD_BYTES and includes nothing: a standard header first seen under a raised target would leak its inline
// functions, compiled for that target, into the whole program. Use named functions, not lambdas, in kernel files:
// compilers disagree on whether a lambda inherits the target.
//
// No include guard: one inclusion per kernel file.
#include "common/simd.h"

#ifndef ZOO_SIMD_KERNEL
#error "define ZOO_SIMD_KERNEL before including this file"
#endif

#define ZOO_SIMD_LEVEL baseline
#define ZOO_SIMD_BYTES 16
#include ZOO_SIMD_KERNEL
#undef ZOO_SIMD_LEVEL
#undef ZOO_SIMD_BYTES

#if ZOO_SIMD_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define ZOO_SIMD_LEVEL avx2
#define ZOO_SIMD_BYTES 32
#include ZOO_SIMD_KERNEL
#undef ZOO_SIMD_LEVEL
#undef ZOO_SIMD_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(                                                                           \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define ZOO_SIMD_LEVEL avx512
#define ZOO_SIMD_BYTES 64
#include ZOO_SIMD_KERNEL
#undef ZOO_SIMD_LEVEL
#undef ZOO_SIMD_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ZOO_SIMD_X86

#undef ZOO_SIMD_KERNEL
