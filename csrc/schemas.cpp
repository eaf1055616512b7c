// The schema of every operator, in one place. Kernels register themselves in csrc/<operator>/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(zoo, m) {
  m.def("prototype_similarity(Tensor features, Tensor prototypes, str metric) -> (Tensor similarity, Tensor argmax)");
  m.def(
      "nearest_neighbors(Tensor query, Tensor reference, int k, float max_distance) -> "
      "(Tensor distances, Tensor indices)");
  m.def(
      "icp(Tensor source, Tensor target, Tensor? target_normals, Tensor init_R, Tensor init_t, float max_distance, "
      "int max_iterations, float tolerance, float trim) -> "
      "(Tensor R, Tensor t, Tensor rmse, Tensor fitness, Tensor iterations, Tensor converged)");
}
