/* Tile instructions in plain C, as the operation of each stands in Intel's manual (volume 2, TDPBSSD,
   TDPBF16PS, TILELOADD, TILESTORED), put in place of the compiler's. Prints whether the products of
   the file under test agree with plain C; with one number of B changed; with one of A changed. */

#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint8_t tiles[8][16][64];

static void load(int tile, const void *from, long stride) {
  for (int row = 0; row < 16; row++) memcpy(tiles[tile][row], (const char *)from + row * stride, 64);
}

static void store(int tile, void *to, long stride) {
  for (int row = 0; row < 16; row++) memcpy((char *)to + row * stride, tiles[tile][row], 64);
}

static void dpbssd(int c, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 16; n++) {
        int32_t *sum = (int32_t *)tiles[c][m] + n;
        for (int i = 0; i < 4; i++)
          *sum += (int32_t)(int8_t)tiles[a][m][4 * k + i] * (int8_t)tiles[b][k][4 * n + i];
      }
}

static float wide(const uint8_t *bytes) {
  uint32_t bits = (uint32_t)(bytes[0] | bytes[1] << 8) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static void dpbf16ps(int c, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 16; n++) {
        float *sum = (float *)tiles[c][m] + n;
        for (int i = 0; i < 2; i++)
          *sum += wide(&tiles[a][m][4 * k + 2 * i]) * wide(&tiles[b][k][4 * n + 2 * i]);
      }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadd(tile, from, stride) load(tile, from, (long)(stride))
#define _tile_stored(tile, to, stride) store(tile, to, (long)(stride))
#define _tile_zero(tile) memset(tiles[tile], 0, sizeof tiles[tile])
#define _tile_dpbssd(c, a, b) dpbssd(c, a, b)
#define _tile_dpbf16ps(c, a, b) dpbf16ps(c, a, b)

#define main program
#include PRODUCT
#undef main

int main(void) {
  fill();
  int right = tiles_agree();
  b_bf16[7][3][1] ^= 0x8000; /* a sign in bf16 alone */
  a_bf16[0][15] = 0x3f80;
  int changed_b = tiles_agree();
  b_bf16[7][3][1] ^= 0x8000;
  a_bf16[0][15] = bf16(a_int8[0][15]);
  a_bf16[31][511] = bf16(a_int8[31][511] + 1);
  printf("%d %d %d\n", right, changed_b, tiles_agree());
  return 0;
}
