/* AMX: products of tiles, 16 rows × 64 bytes times 64 bytes × 16 outputs.

   The configuration of the tiles belongs to a thread and is loaded at the start of each call and
   given up at its end, so that others who use tiles in this process are not disturbed. */

#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

#include "avx512.h"
#include "cpu.h"

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18              /* XFEATURE_XTILEDATA */

enum {
  FEW_ROWS = 1,          /* fewer rows are faster with VNNI (measured) */
  PANEL_ROWS = 512,
  PANEL_BYTES = 1 << 20, /* of quantised rows, which should stay in L2 */
  CHUNK = 1024,          /* inputs whose tiles of two blocks stay in L1 */
  TILE_BYTES = 1024,
};

struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes_a_row[16];
  uint8_t rows[16];
} __attribute__((packed, aligned(64)));

static int suits(void) {
  unsigned a, b, c, d;
  if (!read_features().amx_int8 || __get_cpuid_max(0, 0) < 0x1d) return 0;
  __cpuid_count(0x1d, 0, a, b, c, d);
  if (a < 1) return 0; /* no palettes */
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 ? 40 : 0;
}

static void quantise(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  quantise_row_avx512(x, in, padded, row);
}

/* Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights; fewer than 16 rows take less time. */
static void configure(int few) {
  struct tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.bytes_a_row[i] = 64;
    config.rows[i] = (uint8_t)(i < 6 && few ? few : 16);
  }
  /* The intrinsic does not tell the compiler that it reads memory. */
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

/* The y of up to 16 rows and `blocks` neighbouring blocks, of which each has its own tile of sums;
   row by row, for the rows of y lie on many pages. */
INLINE void finish_tiles(const struct int8_job *job, const int32_t (*sums)[256], int64_t row,
                         int64_t rows, int64_t block, const int blocks) {
  for (int64_t r = 0; r < rows && r < 16; r++)
    for (int b = 0; b < blocks; b++)
      finish16(job, _mm512_load_si512(sums[b] + 16 * r), row + r, block + b);
}

/* Up to 16 rows times one block: the weights are one stream. */
static void few_rows(const struct int8_job *job, int64_t block, int64_t row) {
  int32_t sums[1][256] __attribute__((aligned(64)));
  const uint8_t *w = job->quants + block * LMW_BLOCK * job->padded;
  const int8_t *q = job->rows_q + row * job->stride_q;
  _tile_zero(0);
  for (int64_t k = 0; k < job->padded; k += 64) {
    _tile_loadd(4, q + k, job->stride_q);
    _tile_loadd(6, w + k * LMW_BLOCK, 64);
    _tile_dpbsud(0, 4, 6);
  }
  _tile_stored(0, sums[0], 64);
  finish_tiles(job, sums, row, job->rows - row, block, 1);
}

/* The sums of 32 rows and two blocks, while they are not in tiles. */
struct sums {
  int32_t tiles[4][256];
} __attribute__((aligned(64)));

/* 17 to 32 rows times two blocks over inputs [from, to): each tile that is loaded is used twice. */
INLINE void pair(const struct int8_job *job, int64_t block, int64_t row, int64_t from, int64_t to,
                 struct sums *sums) {
  const int64_t padded = job->padded, stride = job->stride_q;
  const uint8_t *w = job->quants + block * LMW_BLOCK * padded;
  const uint8_t *w_next = w + LMW_BLOCK * padded;
  const int8_t *q = job->rows_q + row * stride, *q_next = q + 16 * stride;
  if (from) {
    _tile_loadd(0, sums->tiles[0], 64);
    _tile_loadd(1, sums->tiles[1], 64);
    _tile_loadd(2, sums->tiles[2], 64);
    _tile_loadd(3, sums->tiles[3], 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = from; k < to; k += 64) {
    _tile_loadd(6, w + k * LMW_BLOCK, 64);
    _tile_loadd(4, q + k, stride);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, w_next + k * LMW_BLOCK, 64);
    _tile_dpbsud(1, 4, 7);
    _tile_loadd(5, q_next + k, stride);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, sums->tiles[0], 64);
  _tile_stored(1, sums->tiles[1], 64);
  _tile_stored(2, sums->tiles[2], 64);
  _tile_stored(3, sums->tiles[3], 64);
}

/* More than 16 rows times two blocks. The inputs are taken in chunks whose weights stay in L1 while
   all rows pass; with several chunks the sums are kept in between. */
static void two_blocks(const struct int8_job *job, int64_t block) {
  struct sums kept[PANEL_ROWS / 32];
  const int64_t padded = job->padded;
  const int64_t chunks = (padded + CHUNK - 1) / CHUNK;
  const int64_t chunk = (padded / 64 + chunks - 1) / chunks * 64;
  for (int64_t from = 0; from < padded; from += chunk) {
    const int64_t to = from + chunk < padded ? from + chunk : padded;
    for (int64_t row = 0; row < job->rows; row += 32) {
      const int64_t rows = job->rows - row > 32 ? 32 : job->rows - row;
      struct sums *sums = kept + (chunks > 1 ? row / 32 : 0);
      pair(job, block, row, from, to, sums);
      if (to < padded) continue;
      finish_tiles(job, sums->tiles, row, rows, block, 2);
      finish_tiles(job, sums->tiles + 2, row + 16, rows - 16, block, 2);
    }
  }
}

/* At most PANEL_ROWS rows times the blocks [from, to). */
static void panel(const struct int8_job *job, int64_t from, int64_t to) {
  int64_t block = from;
  if (job->rows > 16)
    for (; block + 2 <= to; block += 2) two_blocks(job, block);
  for (; block < to; block++)
    for (int64_t row = 0; row < job->rows; row += 16) few_rows(job, block, row);
}

static void int8(const struct int8_job *job, int64_t from, int64_t to) {
  if (job->rows < FEW_ROWS) {
    lmw_avx512_int8(job, from, to);
    return;
  }
  configure(job->rows < 16 ? (int)job->rows : 0);
  int64_t most = PANEL_BYTES / job->stride_q / 32 * 32;
  most = most < 64 ? 64 : most > PANEL_ROWS ? PANEL_ROWS : most;
  const int64_t panels = (job->rows + most - 1) / most; /* of about the same size */
  most = ((job->rows + panels - 1) / panels + 31) / 32 * 32;
  for (int64_t row = 0; row < job->rows; row += most) {
    struct int8_job part = *job;
    part.rows = job->rows - row > most ? most : job->rows - row;
    part.rows_q += row * job->stride_q;
    part.row_scales += row;
    part.row_sums += row;
    part.y += row * job->stride_y;
    panel(&part, from, to);
  }
  _tile_release();
}

const struct variant lmw_amx = {"amx", 'C', suits, quantise, int8, lmw_avx512_group};
