// The kernels of kernels.h for the processor at hand.

#pragma once

#include "kernels.h"

namespace resdet {

enum class Isa { kBase, kAvx2, kAvx512 };

inline Isa isa() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const Isa best = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return Isa::kAvx512;
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::kAvx2 : Isa::kBase;
  }();
  return best;
#else
  return Isa::kBase;
#endif
}

}  // namespace resdet

// RESDET_BEST(function<T, A>)(arguments): the copy of a kernel for this processor.
#if defined(__x86_64__) && defined(__GNUC__)
#define RESDET_BEST(...)                                           \
  (resdet::isa() == resdet::Isa::kAvx512 ? &resdet::avx512::__VA_ARGS__ \
   : resdet::isa() == resdet::Isa::kAvx2 ? &resdet::avx2::__VA_ARGS__   \
                                         : &resdet::base::__VA_ARGS__)
#else
#define RESDET_BEST(...) (&resdet::base::__VA_ARGS__)
#endif
