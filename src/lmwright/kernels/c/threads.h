/* Memory of the calling thread, for the other files of the library. */

#ifndef LMW_THREADS_H
#define LMW_THREADS_H

#include <stddef.h>

/* At least `bytes` bytes at a multiple of 64, the same ones until the thread asks for more; NULL
   when there are none. */
void *scratch_memory(size_t bytes);

#endif
