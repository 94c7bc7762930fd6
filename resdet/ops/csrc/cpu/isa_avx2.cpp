// The kernels for processors with AVX2.
#include <cstdint>
#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define RESDET_ISA avx2
#include "kernels.inl"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
