// The kernels for processors with AVX-512.
#include <cstdint>
#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define RESDET_ISA avx512
#include "kernels.inl"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
