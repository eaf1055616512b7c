// The scalar core, compiled once per SIMD level. A tile of cells is packed as [d][cell] (and scaled to unit length), so
// that vectors run over cells whatever the strides; a register block of prototypes then meets the whole tile.
namespace zoo::prototype_similarity::ZOO_SIMD_LEVEL {

template <typename A>
struct Vector {
  typedef A type __attribute__((vector_size(ZOO_SIMD_BYTES)));
  static constexpr int64_t width = ZOO_SIMD_BYTES / static_cast<int64_t>(sizeof(A));
};

constexpr int64_t kRows = ZOO_SIMD_BYTES == 64 ? 12 : 6;  // prototypes per register block: rows x 2 accumulators
static_assert(kBlock % kRows == 0, "a packed block is cut into whole register blocks");

template <typename A>
constexpr int64_t kTile = 2 * Vector<A>::width;  // cells per tile

// tile [d][kTile] and the squared length of every cell in it; false when a length is not finite.
template <typename T, typename A>
bool pack_tile(const Problem<T, A>& q, const T* cells, int64_t count, A* tile, A* squares) {
  constexpr int64_t width = kTile<A>;
  if (q.stride_n == 1 || q.d == 1) {
    for (int64_t k = 0; k < q.d; ++k) {
      const T* row = cells + k * q.stride_d;
      A* out = tile + k * width;
      for (int64_t j = 0; j < count; ++j) out[j] = static_cast<A>(row[j * q.stride_n]);
      for (int64_t j = count; j < width; ++j) out[j] = A(0);
    }
  } else {
    for (int64_t j = 0; j < count; ++j) {
      const T* row = cells + j * q.stride_n;
      for (int64_t k = 0; k < q.d; ++k) tile[k * width + j] = static_cast<A>(row[k * q.stride_d]);
    }
    for (int64_t k = 0; k < q.d; ++k) {
      for (int64_t j = count; j < width; ++j) tile[k * width + j] = A(0);
    }
  }
  A sums[width] = {};
  for (int64_t k = 0; k < q.d; ++k) {
    const A* row = tile + k * width;
    for (int64_t j = 0; j < width; ++j) sums[j] += row[j] * row[j];
  }
  bool finite = true;
  for (int64_t j = 0; j < width; ++j) finite &= sums[j] - sums[j] == A(0);
  if (q.cosine) {
    A scale[width];
    for (int64_t j = 0; j < width; ++j) {
      const A norm = std::sqrt(sums[j]);
      scale[j] = norm > static_cast<A>(kEpsilon) ? A(1) / norm : A(0);
    }
    for (int64_t k = 0; k < q.d; ++k) {
      A* row = tile + k * width;
      for (int64_t j = 0; j < width; ++j) row[j] *= scale[j];
    }
  }
  for (int64_t j = 0; j < width; ++j) squares[j] = sums[j];
  return finite;
}

// dots [kRows][kTile] = kRows prototypes (stride kBlock within a packed block) times the tile.
template <typename A>
void multiply(const A* __restrict packed, const A* __restrict tile, int64_t d, A* __restrict dots) {
  using V = typename Vector<A>::type;
  constexpr int64_t width = Vector<A>::width;
  V left[kRows] = {};
  V right[kRows] = {};
  for (int64_t k = 0; k < d; ++k) {
    const V x = *reinterpret_cast<const V*>(tile);
    const V y = *reinterpret_cast<const V*>(tile + width);
#pragma GCC unroll 12
    for (int64_t r = 0; r < kRows; ++r) {
      left[r] += packed[r] * x;
      right[r] += packed[r] * y;
    }
    tile += 2 * width;
    packed += kBlock;
  }
  for (int64_t r = 0; r < kRows; ++r) {
    *reinterpret_cast<V*>(dots + r * 2 * width) = left[r];
    *reinterpret_cast<V*>(dots + r * 2 * width + width) = right[r];
  }
}

template <typename T, typename A>
void scan_task(const Problem<T, A>& q, int64_t task, A* tile) {
  constexpr int64_t width = kTile<A>;
  alignas(64) A dots[kRows * width];
  alignas(64) A squares[width];
  const int64_t first = task % q.chunks * kChunk;
  const int64_t last = std::min(q.n, first + kChunk);
  A* best = q.best + task * q.p;
  int64_t* best_cell = q.best_cell + task * q.p;
  for (int64_t i = 0; i < q.p; ++i) {
    best[i] = -std::numeric_limits<A>::infinity();
    best_cell[i] = first;
  }
  const T* row = q.features + task / q.chunks * q.stride_b;
  for (int64_t cell = first; cell < last; cell += width) {
    const int64_t count = std::min(width, last - cell);
    if (!pack_tile(q, row + cell * q.stride_n, count, tile, squares)) q.not_finite->store(true);
    for (int64_t p0 = 0; p0 < q.p; p0 += kRows) {
      multiply(q.packed + p0 / kBlock * kBlock * q.d + p0 % kBlock, tile, q.d, dots);
      const int64_t rows = std::min(kRows, q.p - p0);
      for (int64_t r = 0; r < rows; ++r) {
        const A* dot = dots + r * width;
        A top = best[p0 + r];
        int64_t top_cell = best_cell[p0 + r];
        for (int64_t j = 0; j < count; ++j) {
          const A score = q.cosine ? dot[j] : 2 * dot[j] - squares[j] - q.squares[p0 + r];
          if (score > top) {  // strictly: the lowest index wins a tie
            top = score;
            top_cell = cell + j;
          }
        }
        best[p0 + r] = top;
        best_cell[p0 + r] = top_cell;
      }
    }
  }
}

template <typename T, typename A>
void scan(const Problem<T, A>& q, int64_t first_task, int64_t last_task) {
  simd::Buffer<A> tile(q.d * kTile<A>);
  for (int64_t task = first_task; task < last_task; ++task) scan_task(q, task, tile.data());
}

}  // namespace zoo::prototype_similarity::ZOO_SIMD_LEVEL
