// The schema of every operator, in one place. Kernels register themselves in csrc/<operator>/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(zoo, m) {
  m.def("cosine_topk(Tensor queries, Tensor bank, int k, float? threshold) -> (Tensor similarity, Tensor index)");
  m.def("prototype_similarity(Tensor features, Tensor prototypes, str metric) -> (Tensor similarity, Tensor argmax)");
  m.def(
      "prototype_similarity_backward(Tensor grad, Tensor features, Tensor prototypes, Tensor argmax, str metric) -> "
      "(Tensor grad_features, Tensor grad_prototypes)");
}
