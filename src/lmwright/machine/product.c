/* Matrix products of the CPU's own int8 and bf16 instructions, compared with plain C and timed.

   Each argument is a step. A step prints a line when it begins and one with its result, so that
   whoever reads them knows which one ended the process. Rates are of one thread, in 1e9 operations
   a second, a multiplication and an addition being two.

   The order of questions about AMX is Intel's (Architecture Instruction Set Extensions, chapter 3)
   and the kernel's (Documentation/arch/x86/xstate.rst). */

#define _GNU_SOURCE
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TARGET(names) __attribute__((target(names)))
#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18              /* XFEATURE_XTILEDATA */

enum { SIDE = 32, DEPTH = 512, LANES = 16, ACCUMULATORS = 12 };

static uint32_t state = 12345;

static int8_t small(void) { /* a reproducible number of -60 to 60 */
  state = state * 1664525u + 1013904223u;
  return (int8_t)((int)((state >> 16) % 121) - 60);
}

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

/* -- what is shown and granted ------------------------------------------------------------- */

static int shows_amx(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1); /* bf16, tile, int8 */
}

static int shows_vnni(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b >> 16 & 1) && (c >> 11 & 1); /* avx512f, avx512_vnni */
}

static int palettes(void) {
  unsigned a, b, c, d;
  if (__get_cpuid_max(0, 0) < 0x1d) return 0;
  __cpuid_count(0x1d, 0, a, b, c, d);
  return (int)a;
}

static int permitted(void) {
  return shows_amx() && palettes() >= 1 && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* -- AMX: 32 × 32 of 2 × 2 tiles, so that each loaded tile is used twice ------------------- */

struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes_a_row[16];
  uint8_t rows[16];
} __attribute__((packed, aligned(64)));

/* Rows of A as they lie; of B four bytes (int8) or two bf16 that follow each other in depth. */
static int8_t a_int8[SIDE][DEPTH] __attribute__((aligned(64)));
static int8_t b_int8[DEPTH / 4][SIDE][4] __attribute__((aligned(64)));
static uint16_t a_bf16[SIDE][DEPTH] __attribute__((aligned(64)));
static uint16_t b_bf16[DEPTH / 2][SIDE][2] __attribute__((aligned(64)));
static int32_t c_int32[SIDE][SIDE] __attribute__((aligned(64)));
static float c_fp32[SIDE][SIDE] __attribute__((aligned(64)));

static uint16_t bf16(float value) { /* exact for the small whole numbers used here */
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (uint16_t)(bits >> 16);
}

static int32_t plain(int row, int column) {
  int32_t sum = 0;
  for (int k = 0; k < DEPTH; k++) sum += (int32_t)a_int8[row][k] * b_int8[k / 4][column][k % 4];
  return sum;
}

static void fill(void) {
  for (int i = 0; i < SIDE; i++)
    for (int k = 0; k < DEPTH; k++) {
      a_int8[i][k] = small();
      b_int8[k / 4][i][k % 4] = small();
      a_bf16[i][k] = bf16(a_int8[i][k]);
      b_bf16[k / 2][i][k % 2] = bf16(b_int8[k / 4][i][k % 4]);
    }
}

TARGET("amx-tile") static void configure(void) {
  struct tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int tile = 0; tile < 8; tile++) {
    config.rows[tile] = 16;
    config.bytes_a_row[tile] = 64;
  }
  /* Without this the compiler may drop the stores, as it does not see that they are read. */
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

TARGET("amx-tile") static void release(void) { _tile_release(); }

#define TILE_PRODUCT(name, multiply, a, b, c, step, group)                                        \
  TARGET("amx-tile,amx-int8,amx-bf16") static void name(void) {                                   \
    _tile_zero(0);                                                                                \
    _tile_zero(1);                                                                                \
    _tile_zero(2);                                                                                \
    _tile_zero(3);                                                                                \
    for (int k = 0; k < DEPTH; k += (step)) {                                                     \
      _tile_loadd(4, &(a)[0][k], sizeof(a)[0]);                                                   \
      _tile_loadd(5, &(a)[16][k], sizeof(a)[0]);                                                  \
      _tile_loadd(6, &(b)[k / (group)][0][0], sizeof(b)[0]);                                      \
      _tile_loadd(7, &(b)[k / (group)][16][0], sizeof(b)[0]);                                     \
      multiply(0, 4, 6);                                                                          \
      multiply(1, 4, 7);                                                                          \
      multiply(2, 5, 6);                                                                          \
      multiply(3, 5, 7);                                                                          \
    }                                                                                             \
    _tile_stored(0, &(c)[0][0], sizeof(c)[0]);                                                    \
    _tile_stored(1, &(c)[0][16], sizeof(c)[0]);                                                   \
    _tile_stored(2, &(c)[16][0], sizeof(c)[0]);                                                   \
    _tile_stored(3, &(c)[16][16], sizeof(c)[0]);                                                  \
  }

TILE_PRODUCT(tile_int8, _tile_dpbssd, a_int8, b_int8, c_int32, 64, 4)
TILE_PRODUCT(tile_bf16, _tile_dpbf16ps, a_bf16, b_bf16, c_fp32, 32, 2)

/* 1 if both products are those of plain C. The sums are whole numbers below 2^24: fp32 is exact. */
static int tiles_agree(void) {
  memset(c_int32, 0xff, sizeof c_int32);
  memset(c_fp32, 0xff, sizeof c_fp32);
  tile_int8();
  tile_bf16();
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++)
      if (c_int32[i][j] != plain(i, j) || c_fp32[i][j] != (float)plain(i, j)) return 0;
  return 1;
}

/* -- VNNI: sixteen lanes of four products each ---------------------------------------------- */

static uint8_t u_vnni[ACCUMULATORS][64] __attribute__((aligned(64)));
static int8_t s_vnni[64] __attribute__((aligned(64)));
static int32_t c_vnni[ACCUMULATORS][LANES] __attribute__((aligned(64)));

/* Named sums and assembly: around an array or the intrinsic GCC 12 copies each sum in each round. */
#define EACH_SUM(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)
#define BEGIN(k) __m512i sum##k = _mm512_setzero_si512(), left##k = _mm512_load_si512(u_vnni[k]);
#define MULTIPLY(k) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum##k) : "v"(left##k), "v"(right));
#define END(k) _mm512_store_si512(c_vnni[k], sum##k);

TARGET("avx512f,avx512vnni") static void vnni_int8(int rounds) {
  __m512i right = _mm512_load_si512(s_vnni);
  EACH_SUM(BEGIN)
  for (int round = 0; round < rounds; round++) {
    EACH_SUM(MULTIPLY)
  }
  EACH_SUM(END)
}

static int vnni_agrees(void) {
  for (int i = 0; i < 64; i++) {
    s_vnni[i] = small();
    for (int k = 0; k < ACCUMULATORS; k++) u_vnni[k][i] = (uint8_t)(small() + 60);
  }
  vnni_int8(3);
  for (int k = 0; k < ACCUMULATORS; k++)
    for (int lane = 0; lane < LANES; lane++) {
      int32_t sum = 0;
      for (int i = 4 * lane; i < 4 * lane + 4; i++) sum += 3 * (int32_t)u_vnni[k][i] * s_vnni[i];
      if (c_vnni[k][lane] != sum) return 0;
    }
  return 1;
}

/* -- timing: the best of some rounds, as neighbours only ever slow a round ------------------- */

static void many_int8(int times) { for (int k = 0; k < times; k++) tile_int8(); }
static void many_bf16(int times) { for (int k = 0; k < times; k++) tile_bf16(); }

static double rate(void (*work)(int), int times, double operations) {
  double best = 0;
  for (int round = 0; round < 5; round++) {
    double began = now();
    work(times);
    double found = operations * times / (now() - began) / 1e9;
    if (found > best) best = found;
  }
  return best;
}

static void amx(void) {
  if (!permitted()) {
    printf("null");
    return;
  }
  fill();
  configure();
  int agree = tiles_agree();
  printf("{\"right\": %s", agree ? "true" : "false");
  if (agree) {
    double operations = 2.0 * SIDE * SIDE * DEPTH;
    printf(", \"int8\": %.1f", rate(many_int8, 10000, operations));
    printf(", \"bf16\": %.1f", rate(many_bf16, 10000, operations));
  }
  printf("}");
  release();
}

static void vnni(void) {
  if (!shows_vnni()) {
    printf("null");
    return;
  }
  int agree = vnni_agrees();
  printf("{\"right\": %s", agree ? "true" : "false");
  if (agree) printf(", \"int8\": %.1f", rate(vnni_int8, 1000000, 2.0 * ACCUMULATORS * 64));
  printf("}");
}

int main(int count, char **steps) {
  for (int k = 1; k < count; k++) {
    printf("{\"step\": \"%s\"}\n", steps[k]);
    fflush(stdout);
    printf("{\"step\": \"%s\", \"result\": ", steps[k]);
    if (!strcmp(steps[k], "cpuid")) printf("%s", shows_amx() ? "true" : "false");
    else if (!strcmp(steps[k], "palettes")) printf("%d", palettes());
    else if (!strcmp(steps[k], "permission")) printf("%s", permitted() ? "true" : "false");
    else if (!strcmp(steps[k], "amx")) amx();
    else if (!strcmp(steps[k], "vnni")) vnni();
    else return 2;
    printf("}\n");
    fflush(stdout);
  }
  return 0;
}
