// From the sums over matched pairs to the rigid motion: plain doubles, the same on CPU and CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ZOO_HOST_DEVICE __host__ __device__ inline
#else
#define ZOO_HOST_DEVICE inline
#endif

namespace zoo::icp {

// y = R x + t.
template <int D>
struct Motion {
  double r[D][D];
  double t[D];
};

// The same motion between x relative to `from` and y relative to `to`: sums are taken about the middle of the clouds,
// where rounding does least harm.
template <int D>
ZOO_HOST_DEVICE void center(Motion<D>& motion, const double* from, const double* to) {
  for (int i = 0; i < D; ++i) {
    motion.t[i] -= to[i];
    for (int j = 0; j < D; ++j) motion.t[i] += motion.r[i][j] * from[j];
  }
}
template <int D>
ZOO_HOST_DEVICE void uncenter(Motion<D>& motion, const double* from, const double* to) {
  for (int i = 0; i < D; ++i) {
    motion.t[i] += to[i];
    for (int j = 0; j < D; ++j) motion.t[i] -= motion.r[i][j] * from[j];
  }
}

// Sums over pairs (x of the source, y of the target), both relative to a centre.
//
// Point to point:  count, squared distance, x [D], y [D], x y^T [D][D].
// Point to plane:  count, squared distance, J^T J (upper triangle) [P (P + 1) / 2], J^T residual [P], P unknowns.
template <int D>
constexpr int kUnknowns = D == 2 ? 3 : 6;
template <int D, bool kPlane>
constexpr int kSums = kPlane ? 2 + kUnknowns<D> * (kUnknowns<D> + 1) / 2 + kUnknowns<D> : 2 + 2 * D + D * D;

// Eigenvectors (columns of v) and eigenvalues (diagonal of a) of a symmetric matrix, by Jacobi's rotations.
template <int N>
ZOO_HOST_DEVICE void eigen(double (&a)[N][N], double (&v)[N][N]) {
  for (int i = 0; i < N; ++i) {
    for (int j = 0; j < N; ++j) v[i][j] = i == j;
  }
  for (int sweep = 0; sweep < 30; ++sweep) {
    double off = 0, all = 0;
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < N; ++j) {
        all += a[i][j] * a[i][j];
        if (i != j) off += a[i][j] * a[i][j];
      }
    }
    if (off <= 1e-30 * all) return;
    for (int p = 0; p < N - 1; ++p) {
      for (int q = p + 1; q < N; ++q) {
        if (a[p][q] == 0) continue;
        const double theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const double t = (theta >= 0 ? 1.0 : -1.0) / (fabs(theta) + sqrt(theta * theta + 1));
        const double c = 1 / sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < N; ++k) {
          const double kp = a[k][p], kq = a[k][q];
          a[k][p] = c * kp - s * kq;
          a[k][q] = s * kp + c * kq;
        }
        for (int k = 0; k < N; ++k) {
          const double pk = a[p][k], qk = a[q][k];
          a[p][k] = c * pk - s * qk;
          a[q][k] = s * pk + c * qk;
        }
        for (int k = 0; k < N; ++k) {
          const double kp = v[k][p], kq = v[k][q];
          v[k][p] = c * kp - s * kq;
          v[k][q] = s * kp + c * kq;
        }
      }
    }
  }
}

ZOO_HOST_DEVICE void to_rotation(const double (&q)[4], double (&r)[3][3]) {
  const double w = q[0], x = q[1], y = q[2], z = q[3];
  r[0][0] = 1 - 2 * (y * y + z * z);
  r[0][1] = 2 * (x * y - w * z);
  r[0][2] = 2 * (x * z + w * y);
  r[1][0] = 2 * (x * y + w * z);
  r[1][1] = 1 - 2 * (x * x + z * z);
  r[1][2] = 2 * (y * z - w * x);
  r[2][0] = 2 * (x * z - w * y);
  r[2][1] = 2 * (y * z + w * x);
  r[2][2] = 1 - 2 * (x * x + y * y);
}

// The unit quaternion of a rotation, by its largest component.
ZOO_HOST_DEVICE void to_quaternion(const double (&r)[3][3], double (&q)[4]) {
  const double squares[4] = {1 + r[0][0] + r[1][1] + r[2][2], 1 + r[0][0] - r[1][1] - r[2][2],
                             1 - r[0][0] + r[1][1] - r[2][2], 1 - r[0][0] - r[1][1] + r[2][2]};
  int largest = 0;
  for (int i = 1; i < 4; ++i) largest = squares[i] > squares[largest] ? i : largest;
  const double twice = sqrt(squares[largest]);
  const double wx = r[2][1] - r[1][2], wy = r[0][2] - r[2][0], wz = r[1][0] - r[0][1];
  const double xy = r[0][1] + r[1][0], xz = r[0][2] + r[2][0], yz = r[1][2] + r[2][1];
  const double rows[4][4] = {{squares[0], wx, wy, wz}, {wx, squares[1], xy, xz}, {wy, xy, squares[2], yz},
                             {wz, xz, yz, squares[3]}};
  double length = 0;
  for (int i = 0; i < 4; ++i) {
    q[i] = rows[largest][i] / (2 * twice);
    length += q[i] * q[i];
  }
  for (int i = 0; i < 4; ++i) q[i] /= sqrt(length);
}

// The proper rotation that maximises trace(R S), S = sum x y^T. What the pairs leave open (points on a line, a single
// point) stays as it is in r. No singular value decomposition: planar clouds can't turn into their mirror image.
ZOO_HOST_DEVICE void best_rotation(const double (&s)[2][2], double (&r)[2][2]) {
  const double sine = s[0][1] - s[1][0], cosine = s[0][0] + s[1][1];
  const double size = fabs(s[0][0]) + fabs(s[0][1]) + fabs(s[1][0]) + fabs(s[1][1]);
  const double length = hypot(sine, cosine);
  if (!(length > 1e-12 * size)) return;
  r[0][0] = r[1][1] = cosine / length;
  r[1][0] = sine / length;
  r[0][1] = -r[1][0];
}

// B. K. P. Horn, Closed-form solution of absolute orientation using unit quaternions, 1987.
ZOO_HOST_DEVICE void best_rotation(const double (&s)[3][3], double (&r)[3][3]) {
  double n[4][4] = {{s[0][0] + s[1][1] + s[2][2], s[1][2] - s[2][1], s[2][0] - s[0][2], s[0][1] - s[1][0]},
                    {0, s[0][0] - s[1][1] - s[2][2], s[0][1] + s[1][0], s[2][0] + s[0][2]},
                    {0, 0, s[1][1] - s[0][0] - s[2][2], s[1][2] + s[2][1]},
                    {0, 0, 0, s[2][2] - s[0][0] - s[1][1]}};
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < i; ++j) n[i][j] = n[j][i];
  }
  double v[4][4];
  eigen(n, v);
  double most = n[0][0], size = 0;
  for (int i = 0; i < 4; ++i) {
    most = n[i][i] > most ? n[i][i] : most;
    size = fabs(n[i][i]) > size ? fabs(n[i][i]) : size;
  }
  if (!(size > 0)) return;
  // Of the eigenvectors of the largest eigenvalue (several, when the pairs leave a direction open) the combination
  // nearest to the present rotation.
  double now[4], q[4] = {}, length = 0;
  to_quaternion(r, now);
  int best = 0;
  for (int i = 0; i < 4; ++i) {
    if (n[i][i] > n[best][best]) best = i;
    if (n[i][i] < most - 1e-12 * size) continue;
    double along = 0;
    for (int k = 0; k < 4; ++k) along += now[k] * v[k][i];
    for (int k = 0; k < 4; ++k) q[k] += along * v[k][i];
  }
  for (int k = 0; k < 4; ++k) length += q[k] * q[k];
  if (!(length > 1e-12)) {  // the present rotation is opposite to all of them
    length = 0;
    for (int k = 0; k < 4; ++k) {
      q[k] = v[k][best];
      length += q[k] * q[k];
    }
  }
  for (int k = 0; k < 4; ++k) q[k] /= sqrt(length);
  to_rotation(q, r);
}

// New motion from the sums of point-to-point pairs: R from the centred cross-covariance, t between the centroids.
template <int D>
ZOO_HOST_DEVICE void solve_points(const double* sums, Motion<D>& motion) {
  const double count = sums[0];
  const double *x = sums + 2, *y = x + D, *xy = y + D;
  double s[D][D];
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) s[i][j] = xy[i * D + j] - x[i] * y[j] / count;
  }
  best_rotation(s, motion.r);
  for (int i = 0; i < D; ++i) {
    double moved = 0;
    for (int j = 0; j < D; ++j) moved += motion.r[i][j] * x[j];
    motion.t[i] = (y[i] - moved) / count;
  }
}

// Rotation by a small vector w (3-D) or angle (2-D), applied after r.
ZOO_HOST_DEVICE void turn(const double* w, double (&r)[2][2]) {
  const double c = cos(w[0]), s = sin(w[0]);
  for (int j = 0; j < 2; ++j) {
    const double x = r[0][j], y = r[1][j];
    r[0][j] = c * x - s * y;
    r[1][j] = s * x + c * y;
  }
}
ZOO_HOST_DEVICE void turn(const double* w, double (&r)[3][3]) {
  const double angle = sqrt(w[0] * w[0] + w[1] * w[1] + w[2] * w[2]);
  const double half = angle < 1e-12 ? 0.5 : sin(angle / 2) / angle;
  const double a[4] = {cos(angle / 2), half * w[0], half * w[1], half * w[2]};
  double b[4];
  to_quaternion(r, b);
  double q[4] = {a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
                 a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
                 a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
                 a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0]};
  const double length = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  for (double& part : q) part /= length;
  to_rotation(q, r);
}

// One Gauss-Newton step on sum (n . (R x + t - y))^2. Directions that the normals leave open (sliding along a plane)
// don't move: the pseudo-inverse of J^T J. Rotations are scaled by `radius` so that its entries have one unit.
template <int D>
ZOO_HOST_DEVICE void solve_planes(const double* sums, double radius, Motion<D>& motion) {
  constexpr int P = kUnknowns<D>, kTurns = P - D;
  double a[P][P], v[P][P], g[P], step[P] = {};
  const double* entry = sums + 2;
  for (int i = 0; i < P; ++i) {
    for (int j = i; j < P; ++j, ++entry) {
      a[i][j] = a[j][i] = *entry / ((i < kTurns ? radius : 1) * (j < kTurns ? radius : 1));
    }
  }
  for (int i = 0; i < P; ++i) g[i] = entry[i] / (i < kTurns ? radius : 1);
  eigen(a, v);
  double most = 0;
  for (int i = 0; i < P; ++i) most = a[i][i] > most ? a[i][i] : most;
  for (int i = 0; i < P; ++i) {
    if (!(a[i][i] > 1e-9 * most)) continue;
    double along = 0;
    for (int k = 0; k < P; ++k) along += v[k][i] * g[k];
    for (int k = 0; k < P; ++k) step[k] -= along / a[i][i] * v[k][i];
  }
  for (int i = 0; i < kTurns; ++i) step[i] /= radius;
  double t[D];
  double turned[D][D];
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) turned[i][j] = i == j;
  }
  turn(step, turned);
  for (int i = 0; i < D; ++i) {
    t[i] = step[kTurns + i];
    for (int j = 0; j < D; ++j) t[i] += turned[i][j] * motion.t[j];
  }
  for (int i = 0; i < D; ++i) motion.t[i] = t[i];
  turn(step, motion.r);
}

}  // namespace zoo::icp
