// The schema of every operator, in one place. Kernels register themselves in csrc/<operator>/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(zoo, m) {
  m.def(
      "cosine_filter(Tensor per_sample_grads, Tensor? noise, float noise_scale, int? seed, float clip_norm, str measure, "
      "int unselected) -> (Tensor cosine, Tensor norms)");
  m.def(
      "cosine_filter_aggregate(Tensor per_sample_grads, Tensor weights, Tensor coefficients, Tensor? noise, "
      "float noise_scale, int? seed) -> Tensor");
  m.def("prototype_similarity(Tensor features, Tensor prototypes, str metric) -> (Tensor similarity, Tensor argmax)");
}
