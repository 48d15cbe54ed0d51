// What this machine's processor can do, found out when the program runs: one build serves all.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define PENSTOCK_X86 1
#else
#define PENSTOCK_X86 0
#endif

namespace penstock::text {

// AVX2, and the instructions on bits that came with it.
inline bool has_avx2() noexcept {
#if PENSTOCK_X86
    static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                            __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt");
    return has;
#else
    return false;
#endif
}

}  // namespace penstock::text
