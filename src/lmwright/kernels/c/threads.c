/* Persistent threads and memory.

   A region is published as a ticket: its number in the upper half, the next free part in the lower
   half. Whoever takes a part raises the lower half by one; a thread that comes too late finds
   another number or no part left, and touches nothing. So the caller never waits for a thread that
   is not running: it takes the parts itself and waits only for those that others have begun. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels.h"
#include "threads.h"

enum { MOST_THREADS = 256 };
#define SPIN_NANOSECONDS 50000 /* about what a Python program does between two products */
#define HUGE_PAGE ((size_t)2 << 20)

static atomic_int wanted = 1; /* threads of a region, with the caller */
static int started;           /* threads other than callers; of whoever holds `busy` */
static atomic_int busy, sleepers, caller_sleeps;
static atomic_uint_fast64_t ticket;
static atomic_int left; /* parts that are not done */
static _Atomic(lmw_work) the_work;
static _Atomic(void *) the_arg;
static atomic_int the_parts;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER, ended = PTHREAD_COND_INITIALIZER;

static inline void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static uint32_t region_of(uint64_t value) { return (uint32_t)(value >> 32); }

/* Take and do parts of a region until none is left. */
static void take_parts(uint32_t region) {
  for (;;) {
    uint64_t now = atomic_load(&ticket);
    const lmw_work work = atomic_load_explicit(&the_work, memory_order_relaxed);
    void *arg = atomic_load_explicit(&the_arg, memory_order_relaxed);
    const int parts = atomic_load_explicit(&the_parts, memory_order_relaxed);
    if (region_of(now) != region || (int)(uint32_t)now >= parts) return;
    /* If this succeeds, what was read above is of this region: it cannot end before this part. */
    if (!atomic_compare_exchange_weak(&ticket, &now, now + 1)) continue;
    work(arg, (int)(uint32_t)now, parts);
    if (atomic_fetch_sub(&left, 1) == 1 && atomic_load(&caller_sleeps)) {
      pthread_mutex_lock(&mutex);
      pthread_cond_signal(&ended);
      pthread_mutex_unlock(&mutex);
    }
  }
}

/* Spin until `done` says so or the time is up; returns what it said last. */
#define SPIN_UNTIL(done)                                        \
  for (int64_t until = nanoseconds() + SPIN_NANOSECONDS; !(done);) { \
    for (int i = 0; i < 32 && !(done); i++) pause_briefly();    \
    if (nanoseconds() > until) break;                           \
  }

static void *thread(void *index) {
  uint32_t seen = 0;
  for (;;) {
    if ((int)(intptr_t)index < atomic_load(&wanted))
      SPIN_UNTIL(region_of(atomic_load(&ticket)) != seen)
    if (region_of(atomic_load(&ticket)) == seen) {
      pthread_mutex_lock(&mutex);
      atomic_fetch_add(&sleepers, 1);
      while (region_of(atomic_load(&ticket)) == seen) pthread_cond_wait(&begun, &mutex);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&mutex);
    }
    seen = region_of(atomic_load(&ticket));
    if ((int)(intptr_t)index < atomic_load(&wanted)) take_parts(seen);
  }
  return NULL;
}

/* A child has none of its parent's threads; it starts its own when it needs them. */
static void forked(void) {
  started = 0;
  /* A region that another thread of the parent was in is over here. */
  atomic_store(&ticket, (uint64_t)(region_of(atomic_load(&ticket)) + 1) << 32);
  atomic_store(&the_parts, 0);
  atomic_store(&busy, 0);
  atomic_store(&sleepers, 0);
  atomic_store(&caller_sleeps, 0);
  atomic_store(&left, 0);
  pthread_mutex_init(&mutex, NULL);
  pthread_cond_init(&begun, NULL);
  pthread_cond_init(&ended, NULL);
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forked); }

static void start_threads(int threads) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  if (started >= threads - 1) return;
  sigset_t all, before;
  sigfillset(&all); /* signals are for the program's own threads */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  while (started < threads - 1) {
    pthread_t one;
    if (pthread_create(&one, &detached, thread, (void *)(intptr_t)(started + 1))) break;
    started++;
  }
  pthread_attr_destroy(&detached);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void lmw_parallel_parts(lmw_work work, void *arg, int parts) {
  const int threads = atomic_load(&wanted);
  if (threads < 2 || parts < 2 || atomic_exchange(&busy, 1)) {
    work(arg, 0, 1);
    return;
  }
  start_threads(threads);
  atomic_store(&left, parts);
  atomic_store_explicit(&the_work, work, memory_order_relaxed);
  atomic_store_explicit(&the_arg, arg, memory_order_relaxed);
  atomic_store_explicit(&the_parts, parts, memory_order_relaxed);
  uint32_t region = region_of(atomic_load(&ticket)) + 1;
  if (region == 0) region = 1; /* a new thread has seen region 0 */
  atomic_store(&ticket, (uint64_t)region << 32);
  if (atomic_load(&sleepers)) {
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&begun);
    pthread_mutex_unlock(&mutex);
  }
  take_parts(region);
  SPIN_UNTIL(atomic_load(&left) == 0)
  if (atomic_load(&left)) {
    pthread_mutex_lock(&mutex);
    atomic_store(&caller_sleeps, 1);
    while (atomic_load(&left)) pthread_cond_wait(&ended, &mutex);
    atomic_store(&caller_sleeps, 0);
    pthread_mutex_unlock(&mutex);
  }
  atomic_store(&busy, 0);
}

void lmw_parallel(lmw_work work, void *arg) { lmw_parallel_parts(work, arg, lmw_threads()); }

void lmw_set_threads(int threads) {
  atomic_store(&wanted, threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads);
}

int lmw_threads(void) { return atomic_load(&wanted); }

/* -- memory ------------------------------------------------------------------------------------ */

static size_t mapped(size_t bytes) {
  const size_t page = bytes >= HUGE_PAGE ? HUGE_PAGE : 4096;
  return (bytes + page - 1) / page * page;
}

void *lmw_alloc(size_t bytes) {
  const size_t size = mapped(bytes ? bytes : 1);
  const size_t spare = size >= HUGE_PAGE ? HUGE_PAGE : 0;
  char *found = mmap(NULL, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return NULL;
  if (!spare) return found;
  char *start = (char *)(((uintptr_t)found + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
  if (start > found) munmap(found, (size_t)(start - found));
  const size_t behind = (size_t)(found + spare - start);
  if (behind) munmap(start + size, behind);
#ifdef MADV_HUGEPAGE
  madvise(start, size, MADV_HUGEPAGE); /* where it is refused, pages are small */
#endif
  return start;
}

void lmw_free(void *memory, size_t bytes) {
  if (memory) munmap(memory, mapped(bytes ? bytes : 1));
}

/* Memory of the calling thread that lasts until it asks for more. */
struct scratch {
  void *memory;
  size_t bytes;
};

static pthread_key_t scratch_key;
static int scratch_works;

static void drop_scratch(void *found) {
  struct scratch *mine = found;
  lmw_free(mine->memory, mine->bytes);
  free(mine);
}

static void make_scratch_key(void) {
  scratch_works = pthread_key_create(&scratch_key, drop_scratch) == 0;
}

void *scratch_memory(size_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_scratch_key);
  if (!scratch_works) return NULL;
  struct scratch *mine = pthread_getspecific(scratch_key);
  if (!mine) {
    mine = calloc(1, sizeof *mine);
    if (!mine) return NULL;
    if (pthread_setspecific(scratch_key, mine)) {
      free(mine);
      return NULL;
    }
  }
  if (mine->bytes < bytes) {
    lmw_free(mine->memory, mine->bytes);
    mine->memory = lmw_alloc(bytes);
    mine->bytes = mine->memory ? bytes : 0;
  }
  return mine->memory;
}
