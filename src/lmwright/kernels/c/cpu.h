/* What an x86 CPU and its system show: instructions by CPUID, registers that the system saves by
   XGETBV. */

#ifndef LMW_CPU_H
#define LMW_CPU_H

#include <cpuid.h>
#include <stdint.h>

struct features {
  int avx2, avx_vnni, avx512_vnni, amx_int8;
};

static inline struct features read_features(void) {
  struct features found = {0, 0, 0, 0};
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return found; /* OSXSAVE */
  const int fma = c >> 12 & 1, f16c = c >> 29 & 1;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const int ymm = (low & 0x6) == 0x6, zmm = (low & 0xe6) == 0xe6, tiles = (low & 0x60000) == 0x60000;
  found.avx2 = ymm && fma && f16c && (b >> 5 & 1);
  found.avx512_vnni = found.avx2 && zmm && (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) &&
                      (b >> 31 & 1) && (c >> 11 & 1); /* F, DQ, BW, VL, VNNI */
  found.amx_int8 = found.avx512_vnni && tiles && (d >> 24 & 1) && (d >> 25 & 1);
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avx_vnni = found.avx2 && (a >> 4 & 1);
  return found;
}

#endif
