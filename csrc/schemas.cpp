// The schema of every operator, in one place. Kernels register themselves in csrc/<operator>/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(zoo, m) {
  m.def(
      "cosine_filter(Tensor per_sample_grads, Tensor? noise, float noise_scale, int? seed, float clip_norm, str measure, "
      "int unselected) -> (Tensor cosine, Tensor norms)");
  m.def(
      "cosine_filter_aggregate(Tensor per_sample_grads, Tensor weights, Tensor coefficients, Tensor? noise, "
      "float noise_scale, int? seed) -> Tensor");
  m.def("cosine_topk(Tensor queries, Tensor bank, int k, float? threshold) -> (Tensor similarity, Tensor index)");
  m.def("prototype_similarity(Tensor features, Tensor prototypes, str metric) -> (Tensor similarity, Tensor argmax)");
  m.def(
      "prototype_similarity_backward(Tensor grad, Tensor features, Tensor prototypes, Tensor argmax, str metric) -> "
      "(Tensor grad_features, Tensor grad_prototypes)");
  m.def(
      "masked_attention(Tensor q, Tensor k, Tensor v, Tensor? key_padding_mask, Tensor? query_padding_mask, "
      "Tensor? lengths, Tensor? bias, Tensor? rel_h, Tensor? rel_w, bool causal, float scale) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "masked_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "Tensor? key_padding_mask, Tensor? query_padding_mask, Tensor? lengths, Tensor? bias, Tensor? rel_h, "
      "Tensor? rel_w, bool causal, float scale, bool bias_needs_grad) "
      "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dbias, Tensor drel_h, Tensor drel_w)");
  m.def(
      "nearest_neighbors(Tensor query, Tensor reference, int k, float max_distance) -> "
      "(Tensor distances, Tensor indices)");
  m.def(
      "icp(Tensor source, Tensor target, Tensor? target_normals, Tensor init_R, Tensor init_t, float max_distance, "
      "int max_iterations, float tolerance, float trim) -> "
      "(Tensor R, Tensor t, Tensor rmse, Tensor fitness, Tensor iterations, Tensor converged)");
  m.def("point_tree(Tensor points) -> int");
  m.def("point_tree_drop(int tree) -> ()");
  m.def("point_tree_query(Tensor query, int tree, int k, float max_distance) -> (Tensor distances, Tensor indices)");
  m.def(
      "point_tree_icp(Tensor source, int tree, Tensor? target_normals, Tensor init_R, Tensor init_t, "
      "float max_distance, int max_iterations, float tolerance, float trim) -> "
      "(Tensor R, Tensor t, Tensor rmse, Tensor fitness, Tensor iterations, Tensor converged)");
}
