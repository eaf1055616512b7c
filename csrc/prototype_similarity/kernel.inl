// The scalar core, compiled once per SIMD level: lanes run over prototypes, and every block of cells that has met a
// panel of them updates the running maxima at once, so that no table of similarities exists.
#include "common/panels.inl"

namespace zoo::prototype_similarity::ZOO_SIMD_LEVEL {

using namespace panels::ZOO_SIMD_LEVEL;

template <typename T, typename A>
void pack(const Problem<T, A>& q, int64_t first_panel, int64_t last_panel) {
  for (int64_t i = first_panel; i < last_panel; ++i) {
    const int64_t p0 = i * kColumns<A>;
    const int64_t count = std::min(kColumns<A>, q.p - p0);
    if (!pack_panel(q.prototypes + p0 * q.d, count, stored_columns<A>(q.p, i), q.d, q.d, 1, q.cosine,
                    q.packed + p0 * q.d)) {
      q.prototypes_finite->store(false);
    }
  }
}

template <typename T, typename A>
int64_t panel_count(const Problem<T, A>& q) {
  return (q.p + kColumns<A> - 1) / kColumns<A>;
}

// The running maxima of one panel's prototypes. A cell scores factor * dot + offset: its cosine, or what is left of
// -|x - p|^2 without |p|^2, which doesn't matter to the order of cells.
template <typename A>
struct KeepBest {
  const A* factor;  // of every cell of the tile
  const A* offset;
  int32_t first_cell;  // of the tile, counted from the task's first
  A* best;
  int32_t* best_cell;

  template <int R, int V>
  inline __attribute__((always_inline)) void operator()(const vector_t<A> (&dots)[R][V], int64_t row) {
    typedef int32_t Cells __attribute__((vector_size(sizeof(int32_t) * Vector<A>::width)));
    for (int v = 0; v < V; ++v) {
      vector_t<A>& top = reinterpret_cast<vector_t<A>*>(best)[v];
      Cells& cell = reinterpret_cast<Cells*>(best_cell)[v];
      for (int r = 0; r < R; ++r) {
        const vector_t<A> score = dots[r][v] * factor[row + r] + offset[row + r];
        const auto higher = score > top;  // strictly: the lowest index wins a tie
        top = higher ? score : top;
        const int32_t index = first_cell + static_cast<int32_t>(row) + r;
        cell = __builtin_convertvector(higher, Cells) ? Cells{} + index : cell;
      }
    }
  }
};

template <typename T, typename A>
void scan_task(const Problem<T, A>& q, int64_t task, A* buffer) {
  A squares[kMostCells], factor[kMostCells], offset[kMostCells];
  const int64_t first = task % q.cut.tasks * q.cut.cells;
  const int64_t last = std::min(q.n, first + q.cut.cells);
  A* best = q.best + task * padded(q.p);
  int32_t* best_cell = q.best_cell + task * padded(q.p);
  for (int64_t i = 0; i < padded(q.p); ++i) {
    best[i] = -std::numeric_limits<A>::infinity();
    best_cell[i] = 0;
  }
  const T* row = q.features + task / q.cut.tasks * q.stride_b;
  for (int64_t cell = first; cell < last; cell += q.cut.tile) {
    const int64_t count = std::min(q.cut.tile, last - cell);
    Tile<A> tile;
    if (!load(row + cell * q.stride_n, count, q.d, q.stride_n, q.stride_d, buffer, squares, &tile)) {
      q.features_finite->store(false);
    }
    for (int64_t j = 0; j < count; ++j) {
      factor[j] = q.cosine ? inverse_length(squares[j]) : A(2);
      offset[j] = q.cosine ? A(0) : -squares[j];
    }
    for (int64_t i = 0; i < panel_count(q); ++i) {
      const int64_t p0 = i * kColumns<A>;
      KeepBest<A> keep{factor, offset, static_cast<int32_t>(cell - first), best + p0, best_cell + p0};
      meet(tile, q.packed + p0 * q.d, stored_columns<A>(q.p, i), keep);
    }
  }
}

template <typename T, typename A>
void scan(const Problem<T, A>& q, int64_t first_task, int64_t last_task) {
  simd::Buffer<A> buffer(q.d * q.cut.tile);
  for (int64_t task = first_task; task < last_task; ++task) scan_task(q, task, buffer.data());
}

}  // namespace zoo::prototype_similarity::ZOO_SIMD_LEVEL
