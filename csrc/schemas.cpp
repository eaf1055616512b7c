// The schema of every operator, in one place. Kernels register themselves in csrc/<operator>/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(zoo, m) {
  m.def("prototype_similarity(Tensor features, Tensor prototypes, str metric) -> (Tensor similarity, Tensor argmax)");
}
