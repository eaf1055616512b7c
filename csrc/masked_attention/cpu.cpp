// masked_attention on CPU: list the rows that take part, then let threads draw tasks.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/simd.h"
#if ZOO_SIMD_X86
#include <immintrin.h>
#endif

#include "common/tensor.h"
#include "masked_attention/check.h"
#include "masked_attention/problem.h"

#define ZOO_SIMD_KERNEL "masked_attention/kernel.inl"
#include "common/for_each_simd_level.h"

namespace zoo::masked_attention {
namespace {

template <typename A>
constexpr ScalarType kAccumulate = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;

// Tensors whose last dimension is dense, as the kernels read them.
Tensor dense_rows(const Tensor& tensor) {
  return tensor.size(3) <= 1 || tensor.stride(3) == 1 ? tensor : torch::stable::contiguous(tensor);
}

std::optional<Tensor> dense_rows(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(dense_rows(*tensor)) : tensor;
}

template <typename T>
Rows<const T> rows(const Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

// Which rows take part, by set.
class MemberLists {
 public:
  MemberLists(const std::optional<Tensor>& padding_mask, const std::optional<Tensor>& lengths, int64_t b, int64_t n) {
    const bool same = !padding_mask && !lengths;
    const int64_t lists = same ? 1 : b;
    index_.resize(lists * n);
    count_.resize(lists);
    stride_ = same ? 0 : n;
    for (int64_t i = 0; i < lists; ++i) {
      int64_t end = n;
      if (lengths) {
        end = lengths->const_data_ptr<int64_t>()[i * lengths->stride(0)];
        require(end >= 0 && end <= n, "lengths must be between 0 and ", n, ", got ", end);
      }
      const bool* padded = padding_mask ? padding_mask->const_data_ptr<bool>() + i * padding_mask->stride(0) : nullptr;
      const int64_t stride = padding_mask ? padding_mask->stride(1) : 0;
      int64_t* out = index_.data() + i * n;
      int64_t count = 0;
      for (int64_t j = 0; j < end; ++j) {
        if (padded == nullptr || !padded[j * stride]) out[count++] = j;
      }
      count_[i] = count;
    }
  }
  Members view() const { return {index_.data(), count_.data(), stride_}; }

 private:
  std::vector<int64_t> index_, count_;
  int64_t stride_;
};

struct Lists {
  Lists(const Tensor& q, const Tensor& k, const Options& options)
      : queries(options.query_padding_mask, options.lengths, q.size(0), q.size(2)),
        keys(options.key_padding_mask, options.lengths, q.size(0), k.size(2)) {}
  MemberLists queries, keys;
};

template <typename T, typename A>
void describe(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options, const Lists& lists,
              Problem<T, A>& p) {
  p.q = rows<T>(q);
  p.k = rows<T>(k);
  p.v = rows<T>(v);
  p.batch = q.size(0);
  p.heads = q.size(1);
  p.nq = q.size(2);
  p.nk = k.size(2);
  p.d = q.size(3);
  p.dv = v.size(3);
  p.queries = lists.queries.view();
  p.keys = lists.keys.view();
  p.bias = nullptr;
  p.bias_b = p.bias_h = p.bias_q = p.bias_k = 0;
  if (options.bias) {
    const Tensor& bias = *options.bias;
    p.bias = bias.const_data_ptr<T>();
    p.bias_b = bias.size(0) == 1 ? 0 : bias.stride(0);
    p.bias_h = bias.size(1) == 1 ? 0 : bias.stride(1);
    p.bias_q = bias.size(2) == 1 ? 0 : bias.stride(2);
    p.bias_k = bias.size(3) == 1 ? 0 : bias.stride(3);
  }
  p.height = p.width = 0;
  if (options.rel_h && p.nk > 0) {
    p.rel_h = rows<T>(*options.rel_h);
    p.rel_w = rows<T>(*options.rel_w);
    p.height = options.rel_h->size(3);
    p.width = options.rel_w->size(3);
  }
  p.causal = options.causal;
  p.scale = static_cast<A>(options.scale);
  p.words = std::is_same_v<T, BFloat16> && simd::bf16_products();
}

// Runs `worker` on as many threads as there are, but not more than tasks.
template <typename Worker>
void run(int64_t tasks, const Worker& worker) {
  Queue queue;
  const int64_t workers = std::min<int64_t>(tasks, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) worker(queue);
  });
}

std::tuple<Tensor, Tensor> forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> key_padding_mask,
                                   std::optional<Tensor> query_padding_mask, std::optional<Tensor> lengths,
                                   std::optional<Tensor> bias, std::optional<Tensor> rel_h,
                                   std::optional<Tensor> rel_w, bool causal, double scale) {
  const Options options{key_padding_mask, query_padding_mask, lengths,
                        bias,             dense_rows(rel_h),  dense_rows(rel_w),
                        causal,           scale};
  check(q, k, v, options);
  q = dense_rows(q);
  k = dense_rows(k);
  v = dense_rows(v);
  const Lists lists(q, k, options);
  const int64_t b = q.size(0), h = q.size(1), nq = q.size(2), dv = v.size(3);
  const int64_t out_shape[] = {b, nq, h, dv}, lse_shape[] = {b, h, nq};
  Tensor out = torch::stable::new_empty(q, {out_shape, 4});
  Tensor lse;
  dispatch_floating(q.scalar_type(), "q", [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulate_t<T>;
    lse = torch::stable::new_empty(q, {lse_shape, 3}, kAccumulate<A>);
    Forward<T, A> p{};
    describe(q, k, v, options, lists, p);
    p.out = out.mutable_data_ptr<T>();
    p.lse = lse.mutable_data_ptr<A>();
    run(b * h * nq, [&](Queue& queue) { ZOO_SIMD_CALL(forward_tasks, p, queue); });
  });
  // In memory the heads of a row lie side by side, ready for the projection that follows.
  return {torch::stable::transpose(out, 1, 2), lse};
}

// to [n] = the sum of the slices [splits][n].
template <typename A>
void add_slices(const A* slices, int64_t splits, int64_t n, A* to) {
  torch::stable::parallel_for(0, n, 1 << 15, [&](int64_t first, int64_t last) {
    std::copy(slices + first, slices + last, to + first);
    for (int64_t s = 1; s < splits; ++s) {
      const A* slice = slices + s * n;
      for (int64_t i = first; i < last; ++i) to[i] += slice[i];
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, std::optional<Tensor> key_padding_mask,
    std::optional<Tensor> query_padding_mask, std::optional<Tensor> lengths, std::optional<Tensor> bias,
    std::optional<Tensor> rel_h, std::optional<Tensor> rel_w, bool causal, double scale, bool bias_needs_grad) {
  const Options options{key_padding_mask, query_padding_mask, lengths,
                        bias,             dense_rows(rel_h),  dense_rows(rel_w),
                        causal,           scale};
  check(q, k, v, options);
  check_backward(grad, q, v, out, lse);
  q = dense_rows(q);
  k = dense_rows(k);
  v = dense_rows(v);
  grad = dense_rows(grad);
  out = dense_rows(out);
  lse = torch::stable::contiguous(lse);
  const Lists lists(q, k, options);
  const int64_t b = q.size(0), h = q.size(1), nq = q.size(2), nk = k.size(2), d = q.size(3), dv = v.size(3);
  const int64_t dk_shape[] = {b, h, nk, d}, dv_shape[] = {b, h, nk, dv};
  Tensor dk = torch::stable::new_empty(q, {dk_shape, 4});
  Tensor dv_out = torch::stable::new_empty(q, {dv_shape, 4});
  Tensor dq, dbias, drel_h, drel_w;
  dispatch_floating(q.scalar_type(), "q", [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulate_t<T>;
    Backward<T, A> p{};
    describe(q, k, v, options, lists, p);
    p.grad = rows<T>(grad);
    p.out = rows<T>(out);
    p.lse = lse.const_data_ptr<A>();
    p.dk = dk.mutable_data_ptr<T>();
    p.dv_out = dv_out.mutable_data_ptr<T>();

    const int64_t none[] = {0};
    dbias = torch::stable::new_zeros(q, {none, 1}, kAccumulate<A>);
    if (options.bias && bias_needs_grad) {
      const int64_t shape[] = {options.bias->size(0), options.bias->size(1), options.bias->size(2),
                               options.bias->size(3)};
      dbias = torch::stable::new_zeros(q, {shape, 4}, kAccumulate<A>);
      p.dbias = dbias.mutable_data_ptr<A>();
      p.dbias_b = shape[0] == 1 ? 0 : shape[1] * shape[2] * shape[3];
      p.dbias_h = shape[1] == 1 ? 0 : shape[2] * shape[3];
      p.dbias_q = shape[2] == 1 ? 0 : shape[3];
      p.dbias_k = shape[3] == 1 ? 0 : 1;
    }

    const int64_t groups = p.groups_b() * p.groups_h();
    const bool keys_share_bias = p.dbias != nullptr && p.dbias_k == 0;
    p.splits = groups == 0 || keys_share_bias
                   ? 1
                   : std::clamp<int64_t>(kBackwardTasks / groups, 1, std::max<int64_t>(1, nk / kKeysPerSplit));

    // What the splits write goes straight into the result when there is only one.
    const auto slices = [&](int64_t columns) {
      const int64_t shape[] = {p.splits, b, h, nq, columns};
      return torch::stable::new_empty(q, {shape, 5}, kAccumulate<A>);
    };
    Tensor q_slices = slices(d), h_slices = slices(p.height), w_slices = slices(p.width);
    p.dq = q_slices.mutable_data_ptr<A>();
    if (p.rel_h.data != nullptr) {
      p.drel_h = h_slices.mutable_data_ptr<A>();
      p.drel_w = w_slices.mutable_data_ptr<A>();
    }
    run(groups * p.splits, [&](Queue& queue) { ZOO_SIMD_CALL(backward_tasks, p, queue); });

    const auto sum = [&](const Tensor& parts, int64_t columns) {
      const int64_t shape[] = {b, h, nq, columns};
      if (p.splits == 1) return torch::stable::view(parts, {shape, 4});
      Tensor total = torch::stable::new_empty(q, {shape, 4}, kAccumulate<A>);
      add_slices(parts.const_data_ptr<A>(), p.splits, b * h * nq * columns, total.mutable_data_ptr<A>());
      return total;
    };
    dq = sum(q_slices, d);
    drel_h = sum(h_slices, p.height);
    drel_w = sum(w_slices, p.width);
    for (Tensor* result : {&dq, &dbias, &drel_h, &drel_w}) {
      if (!std::is_same_v<T, A>) *result = torch::stable::to(*result, q.scalar_type());
    }
  });
  return {dq, dk, dv_out, dbias, drel_h, drel_w};
}

}  // namespace
}  // namespace zoo::masked_attention

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) {
  m.impl("masked_attention", TORCH_BOX(&zoo::masked_attention::forward));
  m.impl("masked_attention_backward", TORCH_BOX(&zoo::masked_attention::backward));
}
