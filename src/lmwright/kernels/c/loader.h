/* The variant in use, for the other files of the library. */

#ifndef LMW_LOADER_H
#define LMW_LOADER_H

#include "variant.h"

const struct variant *chosen(void);

#endif
