/* The choice of a variant. This file is compiled for every CPU of its kind. */

#include "loader.h"

#include <stdatomic.h>
#include <string.h>

static const struct variant *const VARIANTS[] = {
    &lmw_plain,
#ifdef LMW_WITH_AVX2
    &lmw_avx2,
#endif
#ifdef LMW_WITH_AVX_VNNI
    &lmw_avx_vnni,
#endif
#ifdef LMW_WITH_AVX512_VNNI
    &lmw_avx512_vnni,
#endif
#ifdef LMW_WITH_AMX
    &lmw_amx,
#endif
#ifdef LMW_WITH_NEON
    &lmw_neon,
#endif
};
enum { COUNT = sizeof VARIANTS / sizeof *VARIANTS };

static _Atomic(const struct variant *) in_use = &lmw_plain;
static const struct variant *suitable[COUNT]; /* best first */
static int suitable_count;
static char names[256];

void lmw_limit(char cpu_class) {
  const char highest = cpu_class >= 'A' && cpu_class <= 'C' ? cpu_class : '-';
  int ranks[COUNT], count = 0;
  for (int i = 0; i < COUNT; i++) {
    if (VARIANTS[i]->cpu_class > highest) continue; /* '-' is below the letters */
    const int rank = VARIANTS[i]->suits();
    if (!rank) continue;
    int at = count++;
    for (; at > 0 && ranks[at - 1] < rank; at--) {
      ranks[at] = ranks[at - 1];
      suitable[at] = suitable[at - 1];
    }
    ranks[at] = rank;
    suitable[at] = VARIANTS[i];
  }
  suitable_count = count;
  names[0] = 0;
  for (int i = 0; i < count; i++) {
    if (i) strcat(names, " ");
    strcat(names, suitable[i]->name);
  }
  atomic_store(&in_use, suitable[0]);
}

const struct variant *chosen(void) { return atomic_load_explicit(&in_use, memory_order_relaxed); }

const char *lmw_variant(void) { return chosen()->name; }

const char *lmw_variants(void) { return names; }

int lmw_choose(const char *name) {
  for (int i = 0; i < suitable_count; i++)
    if (strcmp(suitable[i]->name, name) == 0) {
      atomic_store(&in_use, suitable[i]);
      return LMW_OK;
    }
  return LMW_UNKNOWN;
}
