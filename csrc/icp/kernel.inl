// One pass over the source, compiled once per SIMD level: move, find the neighbours, sum up the pairs.
//
// A point that moved by m since its last search, whose neighbour is now at distance d, still has that neighbour if
// d + m is less than the distance to the second nearest then: every other point is farther. Most points of a
// registration that settles need no search at all, and the pairs are exactly those of a full one.
namespace zoo::icp::ZOO_SIMD_LEVEL {

namespace nn = ::zoo::nearest_neighbors;
namespace search = ::zoo::nearest_neighbors::ZOO_SIMD_LEVEL;

// moved [D][16] = R x + t, in double and rounded once.
template <typename A, int D>
inline void move_group(const Group<A, D>& group, const Motion<D>& motion, A (*moved)[kWide]) {
  for (int i = 0; i < D; ++i) {
    double sum[kWide];
    for (int j = 0; j < kWide; ++j) sum[j] = motion.t[i];
    for (int d = 0; d < D; ++d) {
      const double r = motion.r[i][d];
      for (int j = 0; j < kWide; ++j) sum[j] += r * static_cast<double>(group.x[d][j]);
    }
    for (int j = 0; j < kWide; ++j) moved[i][j] = static_cast<A>(sum[j]);
  }
}

// Squared distances to the remembered neighbours, and which lanes must search.
template <typename A, int D>
inline uint32_t recall(Group<A, D>& group, const A (*moved)[kWide], A reach) {
  constexpr A margin = A(1) - 64 * std::numeric_limits<A>::epsilon();  // for the rounding of three distances
  A way[kWide], pair[kWide];
  for (int j = 0; j < kWide; ++j) way[j] = pair[j] = A(0);
  for (int d = 0; d < D; ++d) {
    for (int j = 0; j < kWide; ++j) {
      const A step = moved[d][j] - group.anchor[d][j];
      const A gap = moved[d][j] - group.near[d][j];
      way[j] += step * step;
      pair[j] += gap * gap;
    }
  }
  uint32_t stale[kWide];
  for (int j = 0; j < kWide; ++j) {
    group.distance[j] = pair[j];
    const A d = std::sqrt(pair[j]);
    const A relevant = d < reach ? d : reach;  // beyond the reach it matters only that no point is within
    stale[j] = relevant + std::sqrt(way[j]) < group.second[j] * margin ? 0 : 1;
  }
  uint32_t bits = 0;
  for (int j = 0; j < kWide; ++j) bits |= stale[j] << j;
  return bits;
}

template <typename A, int D>
struct Scratch {
  search::Candidates<A, D> candidates;
  search::NearestTwo<A> best[kWide];
  A q[kWide * D];
  int lane[kWide];
};

// Searches for the lanes in `bits`. `warm`: they have a neighbour from an earlier search, or else a leaf to start from.
template <typename A, int D>
void search_lanes(const Problem<A, D>& problem, Group<A, D>& group, const A (*moved)[kWide], uint32_t bits, bool warm,
                  Scratch<A, D>& s) {
  constexpr A slack = A(1) + 16 * std::numeric_limits<A>::epsilon();  // limits are computed apart from the search
  const nn::Tree<A, D>& tree = *problem.target;
  const A radius = problem.radius * problem.radius;
  int count = 0;
  for (; bits; bits &= bits - 1) {
    const int j = __builtin_ctz(bits);
    A way = 0;
    for (int d = 0; d < D; ++d) {
      s.q[count * D + d] = moved[d][j];
      way += (moved[d][j] - group.anchor[d][j]) * (moved[d][j] - group.anchor[d][j]);
    }
    A limit = radius;
    if (warm) {  // the two nearest of then are still within this
      const A bound = (group.second[j] + std::sqrt(way)) * slack;
      limit = std::min(limit, bound * bound);
    }
    s.best[count] = {limit, limit};
    s.lane[count++] = j;
  }
  if (!warm) {
    search::search(tree, s.q, s.best[0]);
    if (s.best[0].slot >= 0) {
      for (int i = 1; i < count; ++i) search::scan_leaf(tree, s.best[0].slot / kWide, s.q + i * D, s.best[i]);
    }
    if (count > 1) search::search_group(tree, s.q + D, count - 1, s.best + 1, s.candidates);
  } else {
    search::search_group(tree, s.q, count, s.best, s.candidates);
  }
  for (int i = 0; i < count; ++i) {
    const int j = s.lane[i];
    const search::NearestTwo<A>& best = s.best[i];
    const bool found = best.slot >= 0;
    group.slot[j] = best.slot;
    group.index[j] = best.index;
    group.second[j] = std::sqrt(best.second);  // the limit itself where there was no second, or none at all
    group.distance[j] = found ? best.distance : std::numeric_limits<A>::infinity();
    for (int d = 0; d < D; ++d) {
      group.anchor[d][j] = s.q[i * D + d];
      group.near[d][j] = found ? tree.leaves[best.slot / kWide].x[d][best.slot % kWide]
                               : std::numeric_limits<A>::infinity();
    }
  }
}

// Sums are kept by lane until the end of a chunk: vectors add to vectors.
template <int D, bool kPlane>
struct Sums {
  alignas(64) double lane[kSums<D, kPlane>][kWide];
};

// Adds the pairs of a group that lie within the limit (a squared distance).
template <typename A, int D>
inline void add(const Problem<A, D>& problem, const Group<A, D>& group, const Motion<D>&, A limit, int count,
                Sums<D, false>& sums) {
  alignas(64) double x[D][kWide], y[D][kWide];
  for (int j = 0; j < kWide; ++j) {
    const bool paired = group.distance[j] <= limit && j < count;
    sums.lane[0][j] += paired ? 1.0 : 0.0;
    sums.lane[1][j] += paired ? static_cast<double>(group.distance[j]) : 0.0;
  }
  for (int d = 0; d < D; ++d) {
    for (int j = 0; j < kWide; ++j) {
      const bool paired = group.distance[j] <= limit && j < count;
      x[d][j] = paired ? static_cast<double>(group.x[d][j]) - problem.source_center[d] : 0.0;
      y[d][j] = paired ? static_cast<double>(group.near[d][j]) - problem.target_center[d] : 0.0;
      sums.lane[2 + d][j] += x[d][j];
      sums.lane[2 + D + d][j] += y[d][j];
    }
  }
  for (int i = 0; i < D; ++i) {
    for (int d = 0; d < D; ++d) {
      double* xy = sums.lane[2 + 2 * D + i * D + d];
      for (int j = 0; j < kWide; ++j) xy[j] += x[i][j] * y[d][j];
    }
  }
}

template <typename A, int D>
inline void add(const Problem<A, D>& problem, const Group<A, D>& group, const Motion<D>& motion, A limit, int count,
                Sums<D, true>& sums) {
  constexpr int P = kUnknowns<D>;
  for (int j = 0; j < count; ++j) {
    if (!(group.distance[j] <= limit)) continue;
    double moved[D], normal[D], residual = 0, row[P];
    for (int i = 0; i < D; ++i) {
      moved[i] = motion.t[i] - problem.target_center[i];
      for (int d = 0; d < D; ++d) moved[i] += motion.r[i][d] * static_cast<double>(group.x[d][j]);
      normal[i] = static_cast<double>(problem.normals[static_cast<int64_t>(group.index[j]) * D + i]);
      residual += normal[i] * (moved[i] - (static_cast<double>(group.near[i][j]) - problem.target_center[i]));
    }
    if constexpr (D == 2) {
      row[0] = moved[0] * normal[1] - moved[1] * normal[0];
    } else {
      row[0] = moved[1] * normal[2] - moved[2] * normal[1];
      row[1] = moved[2] * normal[0] - moved[0] * normal[2];
      row[2] = moved[0] * normal[1] - moved[1] * normal[0];
    }
    for (int i = 0; i < D; ++i) row[P - D + i] = normal[i];
    sums.lane[0][j] += 1;
    sums.lane[1][j] += static_cast<double>(group.distance[j]);
    int to = 2;
    for (int a = 0; a < P; ++a) {
      for (int b = a; b < P; ++b) sums.lane[to++][j] += row[a] * row[b];
    }
    for (int a = 0; a < P; ++a) sums.lane[to++][j] += row[a] * residual;
  }
}

template <typename A, int D, bool kPlane>
void pass_chunks(const Problem<A, D>& problem, const Pass<A, D>& pass, int64_t first, int64_t last) {
  Scratch<A, D> scratch;
  Sums<D, kPlane> sums;
  alignas(64) A moved[D][kWide];
  for (int64_t chunk = first; chunk < last; ++chunk) {
    for (int i = 0; i < kSums<D, kPlane>; ++i) {
      for (int j = 0; j < kWide; ++j) sums.lane[i][j] = 0;
    }
    const int64_t end = std::min(problem.group_count, (chunk + 1) * kChunk);
    for (int64_t i = chunk * kChunk; i < end; ++i) {
      Group<A, D>& group = problem.groups[i];
      const int count = static_cast<int>(std::min<int64_t>(kWide, problem.n - i * kWide));
      if (pass.match) {
        move_group(group, pass.motion, moved);
        uint32_t bits = pass.first ? 0xffffu : recall(group, moved, problem.reach);
        bits &= (1u << count) - 1;
        if (bits) search_lanes(problem, group, moved, bits, !pass.first, scratch);
      }
      if (pass.add) add(problem, group, pass.motion, pass.limit, count, sums);
    }
    if (!pass.add) continue;
    for (int i = 0; i < kSums<D, kPlane>; ++i) {
      double sum = 0;
      for (int j = 0; j < kWide; ++j) sum += sums.lane[i][j];
      problem.sums[chunk * kSums<D, kPlane> + i] = sum;
    }
  }
}

}  // namespace zoo::icp::ZOO_SIMD_LEVEL
