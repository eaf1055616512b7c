// Search in a tree, compiled once per SIMD level: depth first, nearest child first, 16 lanes at a time.
//
// Queries that lie together search together: one descent collects the leaves that any of 16 queries may need, then each
// query meets the few boxes and leaves that lie in the first-level cache.
//
// Every distance, to a point or to a box, is the same sum of squares of differences. Rounding is monotone, so the
// computed distance to a box never exceeds that to a point inside, and what is pruned can't have won: neighbours are
// exact in the arithmetic of A.
namespace zoo::nearest_neighbors::ZOO_SIMD_LEVEL {

template <typename A>
struct Lanes {  // 16 numbers
  typedef A vector __attribute__((vector_size(ZOO_SIMD_BYTES)));
  static constexpr int kVectors = kWide * static_cast<int>(sizeof(A)) / ZOO_SIMD_BYTES;
  static constexpr int kWidth = ZOO_SIMD_BYTES / static_cast<int>(sizeof(A));
  vector v[kVectors];
};

// Bit j: lane j is at most the limit. NaN never is.
inline uint32_t at_most(const Lanes<float>& x, float limit) {
#if ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)x.v[0], _mm512_set1_ps(limit), _CMP_LE_OQ);
#elif ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 32
  const __m256 bound = _mm256_set1_ps(limit);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x.v[0], bound, _CMP_LE_OQ))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x.v[1], bound, _CMP_LE_OQ))) << 8;
#elif ZOO_SIMD_X86 && defined(__SSE2__)
  const __m128 bound = _mm_set1_ps(limit);
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) {
    bits |= static_cast<uint32_t>(_mm_movemask_ps(_mm_cmple_ps((__m128)x.v[i], bound))) << 4 * i;
  }
  return bits;
#else
  uint32_t bits = 0;
  for (int j = 0; j < kWide; ++j) {
    bits |= static_cast<uint32_t>(x.v[j / Lanes<float>::kWidth][j % Lanes<float>::kWidth] <= limit) << j;
  }
  return bits;
#endif
}

inline uint32_t at_most(const Lanes<double>& x, double limit) {
#if ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 64
  const __m512d bound = _mm512_set1_pd(limit);
  return static_cast<uint32_t>(_mm512_cmp_pd_mask((__m512d)x.v[0], bound, _CMP_LE_OQ)) |
         static_cast<uint32_t>(_mm512_cmp_pd_mask((__m512d)x.v[1], bound, _CMP_LE_OQ)) << 8;
#elif ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 32
  const __m256d bound = _mm256_set1_pd(limit);
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) {
    bits |= static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)x.v[i], bound, _CMP_LE_OQ))) << 4 * i;
  }
  return bits;
#elif ZOO_SIMD_X86 && defined(__SSE2__)
  const __m128d bound = _mm_set1_pd(limit);
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    bits |= static_cast<uint32_t>(_mm_movemask_pd(_mm_cmple_pd((__m128d)x.v[i], bound))) << 2 * i;
  }
  return bits;
#else
  uint32_t bits = 0;
  for (int j = 0; j < kWide; ++j) {
    bits |= static_cast<uint32_t>(x.v[j / Lanes<double>::kWidth][j % Lanes<double>::kWidth] <= limit) << j;
  }
  return bits;
#endif
}

template <typename A, int D>
inline Lanes<A> to_points(const Leaf<A, D>& leaf, const A* q) {
  using V = typename Lanes<A>::vector;
  Lanes<A> sum;
  for (int i = 0; i < Lanes<A>::kVectors; ++i) {
    const V first = reinterpret_cast<const V*>(leaf.x[0])[i] - q[0];
    sum.v[i] = first * first;
    for (int d = 1; d < D; ++d) {
      const V difference = reinterpret_cast<const V*>(leaf.x[d])[i] - q[d];
      sum.v[i] += difference * difference;
    }
  }
  return sum;
}

template <typename V>
inline V larger(V a, V b) {
  return a > b ? a : b;
}

template <typename A>
inline A minimum(const Lanes<A>& x) {
  typename Lanes<A>::vector least = x.v[0];
  for (int i = 1; i < Lanes<A>::kVectors; ++i) least = x.v[i] < least ? x.v[i] : least;
  alignas(64) A half[Lanes<A>::kWidth];
  *reinterpret_cast<typename Lanes<A>::vector*>(half) = least;
#pragma GCC unroll 4
  for (int width = Lanes<A>::kWidth / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) half[j] = half[j + width] < half[j] ? half[j + width] : half[j];
  }
  return half[0];
}

template <typename A, int D>
inline Lanes<A> to_boxes(const Node<A, D>& node, const A* low, const A* high) {
  using V = typename Lanes<A>::vector;
  const V zero = {};
  Lanes<A> sum;
  for (int i = 0; i < Lanes<A>::kVectors; ++i) {
    for (int d = 0; d < D; ++d) {
      const V above = reinterpret_cast<const V*>(node.low[d])[i] - high[d];
      const V below = low[d] - reinterpret_cast<const V*>(node.high[d])[i];
      const V gap = larger(larger(above, below), zero);
      if (d == 0) {
        sum.v[i] = gap * gap;
      } else {
        sum.v[i] += gap * gap;
      }
    }
  }
  return sum;
}

// The nearest point within a limit (inclusive); of equals the lowest index.
template <typename A>
struct Nearest {
  A distance;  // squared; at first the limit
  int32_t index = kNone;
  int32_t slot = -1;  // place in the tree: leaf * 16 + lane

  A limit() const { return distance; }
  bool admits(A d, int32_t i) const { return d < distance || (d == distance && i < index); }
  void offer(A d, int32_t i, int32_t place) {  // offering a point twice is no harm
    if (!admits(d, i)) return;
    distance = d;
    index = i;
    slot = place;
  }
};

// The nearest two within a limit, for those who ask how much nearer the nearest is.
template <typename A>
struct NearestTwo {
  A distance, second;  // squared; at first the limit
  int32_t index = kNone, second_index = kNone;
  int32_t slot = -1, second_slot = -1;

  A limit() const { return second; }
  bool admits(A d, int32_t i) const { return d < second || (d == second && i < second_index); }
  void offer(A d, int32_t i, int32_t place) {
    if (!admits(d, i) || i == index) return;
    if (d < distance || (d == distance && i < index)) {
      second = distance;
      second_index = index;
      second_slot = slot;
      distance = d;
      index = i;
      slot = place;
    } else {
      second = d;
      second_index = i;
      second_slot = place;
    }
  }
};

// The k nearest, in ascending order.
template <typename A>
struct NearestK {
  A* distance;  // [k] squared; at first the limit
  int32_t* index;  // [k]
  int32_t* slot;
  int64_t k;

  A limit() const { return distance[k - 1]; }
  bool admits(A d, int32_t i) const { return d < distance[k - 1] || (d == distance[k - 1] && i < index[k - 1]); }
  void offer(A d, int32_t i, int32_t place) {
    if (!admits(d, i)) return;
    int64_t j = k - 1;
    while (j > 0 && (d < distance[j - 1] || (d == distance[j - 1] && i < index[j - 1]))) --j;
    if (j > 0 && index[j - 1] == i) return;  // offered before
    for (int64_t to = k - 1; to > j; --to) {
      distance[to] = distance[to - 1];
      index[to] = index[to - 1];
      slot[to] = slot[to - 1];
    }
    distance[j] = d;
    index[j] = i;
    slot[j] = place;
  }
};

// Up to eight nearest in single precision, in ascending order, each row in one vector: an offer is inserted without a
// branch. The lanes before the first of the k hold what no offer can displace.
struct NearestEight {
  typedef float Distances __attribute__((vector_size(32)));
  typedef int32_t Numbers __attribute__((vector_size(32)));
  Distances distance;  // squared; at first the limit
  Numbers index, slot;
  int64_t k;

  float limit() const { return distance[7]; }
  bool admits(float d, int32_t i) const { return d < distance[7] || (d == distance[7] && i < index[7]); }
  bool has(int32_t i) const { return any(index == i); }
  void insert(float d, int32_t i, int32_t place) {  // what is too far away falls off the end
    const Distances before = up(distance, -std::numeric_limits<float>::infinity());
    const Numbers before_index = up(index, -1), before_slot = up(slot, -1);
    const Numbers stays = (distance < d) | ((distance == d) & (index < i));
    const Numbers moves = ~((before < d) | ((before == d) & (before_index < i)));
    distance = stays ? distance : (moves ? before : Distances{} + d);
    index = stays ? index : (moves ? before_index : Numbers{} + i);
    slot = stays ? slot : (moves ? before_slot : Numbers{} + place);
  }

  static bool any(Numbers mask) {
#if ZOO_SIMD_X86 && ZOO_SIMD_BYTES >= 32
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int32_t seen = 0;
    for (int j = 0; j < 8; ++j) seen |= mask[j];
    return seen != 0;
#endif
  }
  template <typename V, typename T>
  static V up(V v, T first) {  // one lane on
    return V{first, v[0], v[1], v[2], v[3], v[4], v[5], v[6]};
  }
};

// The lane of the least distance among those in `bits`.
template <typename A>
inline int nearest_of(const Lanes<A>& distances, uint32_t bits) {
  const A* distance = reinterpret_cast<const A*>(distances.v);
  int nearest = __builtin_ctz(bits);
  for (bits &= bits - 1; bits; bits &= bits - 1) {
    const int j = __builtin_ctz(bits);
    if (distance[j] < distance[nearest]) nearest = j;
  }
  return nearest;
}

template <typename A, int D, typename Best>
inline void scan_leaf(const Tree<A, D>& tree, int64_t i, const A* q, Best& best) {
  const Leaf<A, D>& leaf = tree.leaves[i];
  const Lanes<A> distance = to_points(leaf, q);
  for (uint32_t bits = at_most(distance, best.limit()); bits;) {
    const int j = __builtin_ctz(bits);
    best.offer(reinterpret_cast<const A*>(distance.v)[j], leaf.index[j], static_cast<int32_t>(i * kWide + j));
    bits &= at_most(distance, best.limit()) & (bits - 1);
  }
}

// For up to eight: all that were near enough at first, without a look at the limit in between.
template <int D>
inline void scan_leaf(const Tree<float, D>& tree, int64_t i, const float* q, NearestEight& best) {
  const Leaf<float, D>& leaf = tree.leaves[i];
  const Lanes<float> distance = to_points(leaf, q);
  uint32_t bits = at_most(distance, best.limit());
  NearestEight found = best;
  for (; bits; bits &= bits - 1) {
    const int j = __builtin_ctz(bits);
    if (found.has(leaf.index[j])) continue;  // offered before
    found.insert(reinterpret_cast<const float*>(distance.v)[j], leaf.index[j], static_cast<int32_t>(i * kWide + j));
  }
  best = found;
}

// For the nearest alone: no branch per lane.
template <typename A, int D>
inline void scan_leaf(const Tree<A, D>& tree, int64_t i, const A* q, Nearest<A>& best) {
  const Leaf<A, D>& leaf = tree.leaves[i];
  const Lanes<A> distance = to_points(leaf, q);
  if (!at_most(distance, best.limit())) return;
  const A least = minimum(distance);
  for (uint32_t bits = at_most(distance, least); bits; bits &= bits - 1) {
    const int j = __builtin_ctz(bits);
    best.offer(least, leaf.index[j], static_cast<int32_t>(i * kWide + j));
  }
}

template <typename A, int D, typename Best>
void search(const Tree<A, D>& tree, const A* q, Best& best) {
  struct Frame {
    Lanes<A> distance;
    uint32_t open;  // children not yet visited
    int64_t node;
  };
  Frame frames[kLevels];
  int level = tree.levels - 1;
  frames[level].node = 0;
  frames[level].distance = to_boxes(tree.nodes[level][0], q, q);
  frames[level].open = at_most(frames[level].distance, best.limit());
  while (level < tree.levels) {
    Frame& frame = frames[level];
    if (!frame.open) {
      ++level;
      continue;
    }
    const A* distance = reinterpret_cast<const A*>(frame.distance.v);
    const int nearest = nearest_of(frame.distance, frame.open);
    if (distance[nearest] > best.limit()) {
      ++level;
      continue;
    }
    frame.open &= ~(1u << nearest);
    if (!best.admits(distance[nearest], tree.nodes[level][frame.node].first[nearest])) continue;
    const int64_t child = frame.node * kWide + nearest;
    if (level == 0) {
      scan_leaf(tree, child, q, best);
    } else {
      --level;
      frames[level].node = child;
      frames[level].distance = to_boxes(tree.nodes[level][child], q, q);
      frames[level].open = at_most(frames[level].distance, best.limit());
    }
  }
}

// What a group of up to 16 queries may have to visit: leaves, and their boxes packed as nodes.
template <typename A, int D>
struct Candidates {
  static constexpr int kMost = 8 * kWide;
  Node<A, D> boxes[kMost / kWide];
  int32_t leaf[kMost];
  int count;
};

// Every leaf whose box lies within the limit of the box [low, high]; false when they are too many to be worth it.
template <typename A, int D>
bool collect(const Tree<A, D>& tree, const A* low, const A* high, A limit, Candidates<A, D>& found) {
  int64_t stack[kLevels * kWide];
  int depth_of[kLevels * kWide];
  int top = 0;
  stack[top] = 0;
  depth_of[top++] = tree.levels - 1;
  found.count = 0;
  while (top > 0) {
    const int64_t i = stack[--top];
    const int level = depth_of[top];
    const Node<A, D>& node = tree.nodes[level][i];
    const Lanes<A> distance = to_boxes(node, low, high);
    for (uint32_t bits = at_most(distance, limit); bits; bits &= bits - 1) {
      const int c = __builtin_ctz(bits);
      if (node.first[c] == kNone) continue;
      if (level > 0) {
        stack[top] = i * kWide + c;
        depth_of[top++] = level - 1;
        continue;
      }
      if (found.count == Candidates<A, D>::kMost) return false;
      const int to = found.count++;
      Node<A, D>& boxes = found.boxes[to / kWide];
      for (int d = 0; d < D; ++d) {
        boxes.low[d][to % kWide] = node.low[d][c];
        boxes.high[d][to % kWide] = node.high[d][c];
      }
      boxes.first[to % kWide] = node.first[c];
      found.leaf[to] = static_cast<int32_t>(i * kWide + c);
    }
  }
  for (int to = found.count; to % kWide != 0; ++to) {  // an empty box at infinity
    Node<A, D>& boxes = found.boxes[to / kWide];
    for (int d = 0; d < D; ++d) {
      boxes.low[d][to % kWide] = std::numeric_limits<A>::infinity();
      boxes.high[d][to % kWide] = -std::numeric_limits<A>::infinity();
    }
    boxes.first[to % kWide] = kNone;
  }
  return true;
}

// Search for several queries (q [count][D]) that lie together; `best` holds what each knows already.
template <typename A, int D, typename Best>
void search_group(const Tree<A, D>& tree, const A* q, int count, Best* best, Candidates<A, D>& candidates) {
  A low[D], high[D];
  A limit = best[0].limit();
  for (int d = 0; d < D; ++d) low[d] = high[d] = q[d];
  for (int i = 1; i < count; ++i) {
    limit = best[i].limit() > limit ? best[i].limit() : limit;
    for (int d = 0; d < D; ++d) {
      const A x = q[i * D + d];
      low[d] = x < low[d] ? x : low[d];
      high[d] = x > high[d] ? x : high[d];
    }
  }
  if (count < 3 || !collect(tree, low, high, limit, candidates)) {
    for (int i = 0; i < count; ++i) search(tree, q + i * D, best[i]);
    return;
  }
  for (int i = 0; i < count; ++i) {
    for (int block = 0; block * kWide < candidates.count; ++block) {
      const Node<A, D>& boxes = candidates.boxes[block];
      const Lanes<A> distance = to_boxes(boxes, q + i * D, q + i * D);
      for (uint32_t open = at_most(distance, best[i].limit()); open;) {
        const int c = nearest_of(distance, open);
        open &= ~(1u << c);
        const A d = reinterpret_cast<const A*>(distance.v)[c];
        if (d > best[i].limit()) break;
        if (best[i].admits(d, boxes.first[c])) scan_leaf(tree, candidates.leaf[block * kWide + c], q + i * D, best[i]);
      }
    }
  }
}

template <typename A, int D>
inline A squared_distance(const A* x, const A* y) {
  A sum = 0;
  for (int d = 0; d < D; ++d) sum += (x[d] - y[d]) * (x[d] - y[d]);
  return sum;
}

template <typename A, int D>
inline void point_at(const Tree<A, D>& tree, int32_t slot, A* x) {
  const Leaf<A, D>& leaf = tree.leaves[slot / kWide];
  for (int d = 0; d < D; ++d) x[d] = leaf.x[d][slot % kWide];
}

inline void reset(Nearest<float>& best, float limit, int64_t) { best = {limit}; }
inline void reset(Nearest<double>& best, double limit, int64_t) { best = {limit}; }
template <typename A>
inline void reset(NearestK<A>& best, A limit, int64_t) {
  for (int64_t j = 0; j < best.k; ++j) {
    best.distance[j] = limit;
    best.index[j] = kNone;
    best.slot[j] = -1;
  }
}

inline void reset(NearestEight& best, float limit, int64_t k) {
  best.k = k;
  for (int64_t j = 0; j < 8; ++j) {
    const bool free = j >= 8 - k;
    best.distance[j] = free ? limit : -std::numeric_limits<float>::infinity();
    best.index[j] = free ? kNone : -1;
    best.slot[j] = -1;
  }
}

template <int D>
inline void write(const Query<float, D>& task, int64_t row, const NearestEight& best) {
  for (int64_t j = 0; j < best.k; ++j) {
    const int64_t from = 8 - best.k + j;
    const bool found = best.slot[from] >= 0;
    task.distance[row * best.k + j] = found ? std::sqrt(best.distance[from]) : std::numeric_limits<float>::infinity();
    task.index[row * best.k + j] = found ? best.index[from] : -1;
  }
}

template <typename A, int D>
inline void write(const Query<A, D>& task, int64_t row, const Nearest<A>& best) {
  const bool found = best.slot >= 0;
  task.distance[row] = found ? std::sqrt(best.distance) : std::numeric_limits<A>::infinity();
  task.index[row] = found ? best.index : -1;
}
template <typename A, int D>
inline void write(const Query<A, D>& task, int64_t row, const NearestK<A>& best) {
  for (int64_t j = 0; j < best.k; ++j) {
    const bool found = best.slot[j] >= 0;
    task.distance[row * best.k + j] = found ? std::sqrt(best.distance[j]) : std::numeric_limits<A>::infinity();
    task.index[row * best.k + j] = found ? best.index[j] : -1;
  }
}

inline int32_t any_slot(const Nearest<float>& best) { return best.slot; }
inline int32_t any_slot(const Nearest<double>& best) { return best.slot; }
template <typename A>
inline int32_t any_slot(const NearestK<A>& best) {
  return best.slot[0];
}

inline int32_t any_slot(const NearestEight& best) { return best.slot[8 - best.k]; }

// k beyond this finds no limit in the one leaf that a group meets first.
constexpr int64_t kGroupK = 8;

// The queries order[first..last), 16 by 16. The nearest leaf of a group's first query gives all of them a first limit.
template <typename A, int D, typename Best>
void query_groups(const Query<A, D>& task, int64_t first, int64_t last, Best* best) {
  const Tree<A, D>& tree = *task.tree;
  Candidates<A, D> candidates;
  A q[kWide * D];
  for (int64_t begin = first; begin < last; begin += kWide) {
    const int count = static_cast<int>(last - begin < kWide ? last - begin : kWide);
    for (int i = 0; i < count; ++i) {
      const A* x = task.points + static_cast<int64_t>(task.order[begin + i]) * D;
      for (int d = 0; d < D; ++d) q[i * D + d] = x[d];
      reset(best[i], task.limit, task.k);
    }
    search(tree, q, best[0]);
    const int32_t slot = any_slot(best[0]);
    if (slot >= 0) {
      for (int i = 1; i < count; ++i) scan_leaf(tree, slot / kWide, q + i * D, best[i]);
    }
    if (count > 1) search_group(tree, q + D, count - 1, best + 1, candidates);
    for (int i = 0; i < count; ++i) write(task, task.order[begin + i], best[i]);
  }
}

// One by one, for a large k: the neighbours of one query are a limit for the next, which lies near it on the curve.
template <typename A, int D>
void query_singly(const Query<A, D>& task, int64_t first, int64_t last, NearestK<A>& best) {
  constexpr A slack = A(1) + 8 * std::numeric_limits<A>::epsilon();  // this limit is computed apart from the search
  for (int64_t i = first; i < last; ++i) {
    const int64_t row = task.order[i];
    const A* q = task.points + row * D;
    A limit = task.limit;
    if (i > first && best.slot[task.k - 1] >= 0) {
      A farthest = 0;
      for (int64_t j = 0; j < task.k; ++j) {
        A x[D];
        point_at(*task.tree, best.slot[j], x);
        farthest = std::max(farthest, squared_distance<A, D>(q, x));
      }
      limit = std::min(limit, farthest * slack + std::numeric_limits<A>::min());
    }
    reset(best, limit, task.k);
    search(*task.tree, q, best);
    write(task, row, best);
  }
}

template <typename A, int D>
void query_chunk(const Query<A, D>& task, int64_t first, int64_t last) {
  const int64_t k = task.k;
  if (k == 1) {
    Nearest<A> best[kWide];
    query_groups(task, first, last, best);
    return;
  }
  if constexpr (std::is_same_v<A, float>) {
    if (k <= 8) {
      NearestEight best[kWide];
      query_groups(task, first, last, best);
      return;
    }
  }
  const int64_t rows = k <= kGroupK ? kWide : 1;
  simd::Buffer<A> distance(rows * k);
  simd::Buffer<int32_t> index(rows * k), slot(rows * k);
  if (k <= kGroupK) {
    NearestK<A> best[kWide];
    for (int64_t i = 0; i < rows; ++i) {
      best[i] = {distance.data() + i * k, index.data() + i * k, slot.data() + i * k, k};
    }
    query_groups(task, first, last, best);
  } else {
    NearestK<A> best{distance.data(), index.data(), slot.data(), k};
    query_singly(task, first, last, best);
  }
}

}  // namespace zoo::nearest_neighbors::ZOO_SIMD_LEVEL
