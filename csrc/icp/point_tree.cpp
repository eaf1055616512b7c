// Trees that outlive a call, to be asked again and again: kept here by number, from point_tree to point_tree_drop.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <variant>

#include "icp/registered.h"

namespace zoo::icp {
namespace {

namespace nn = nearest_neighbors;
using AnyTree = std::variant<nn::Tree<float, 2>, nn::Tree<float, 3>, nn::Tree<double, 2>, nn::Tree<double, 3>>;

class Trees {
 public:
  int64_t keep(AnyTree tree) {
    auto kept = std::make_shared<const AnyTree>(std::move(tree));
    const std::lock_guard<std::mutex> guard(mutex_);
    trees_.emplace(++last_, std::move(kept));
    return last_;
  }

  // Also of another thread's drop this one survives as long as it is used.
  std::shared_ptr<const AnyTree> at(int64_t number) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto found = trees_.find(number);
    require(found != trees_.end(), "there is no point tree ", number);
    return found->second;
  }

  void drop(int64_t number) {
    std::map<int64_t, std::shared_ptr<const AnyTree>>::node_type dropped;  // freed after the lock
    const std::lock_guard<std::mutex> guard(mutex_);
    dropped = trees_.extract(number);
  }

 private:
  mutable std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<const AnyTree>> trees_;
  int64_t last_ = 0;
};

Trees& trees() {
  static Trees kept;
  return kept;
}

template <typename A, int D>
void check_like(const nn::Tree<A, D>&, const Tensor& points, const char* name) {
  require(points.dim() == 2 && points.size(1) == D, name, " must be [n ", D, "]");
  const bool same = points.scalar_type() == (sizeof(A) == 4 ? ScalarType::Float : ScalarType::Double);
  require(same, name, " must be ", sizeof(A) == 4 ? "float32" : "float64", ", as the tree");
}

int64_t point_tree(Tensor points) {
  nn::check_cloud(points, "points");
  require(points.size(0) > 0, "points must have at least one point");
  const auto build = [&](auto type) {
    using A = typename decltype(type)::type;
    const nn::Cloud<A> from(points, "points");
    return points.size(1) == 2 ? AnyTree(nn::build<A, 2>(from.data(), points.size(0)))
                               : AnyTree(nn::build<A, 3>(from.data(), points.size(0)));
  };
  const bool single = points.scalar_type() == ScalarType::Float;
  require(single || points.scalar_type() == ScalarType::Double, "points must be float32 or float64");
  return trees().keep(single ? build(Type<float>{}) : build(Type<double>{}));
}

void drop(int64_t number) { trees().drop(number); }

template <typename A, int D>
std::tuple<Tensor, Tensor> ask(const nn::Tree<A, D>& tree, const Tensor& points, int64_t k, double max_distance) {
  check_like(tree, points, "query");
  require(k >= 1 && k <= tree.size, "k must be from 1 to the number of points (", tree.size, "), not ", k);
  require(max_distance > 0, "max_distance must be positive");
  const nn::Cloud<A> from(points, "query");
  const int64_t shape[] = {points.size(0), k};
  Tensor distance = torch::stable::new_empty(points, {shape, 2});
  Tensor index = torch::stable::new_empty(points, {shape, 2}, ScalarType::Long);
  const A reach = static_cast<A>(max_distance);
  nn::query<A, D>(tree, from.data(), points.size(0), k, reach * reach, distance.mutable_data_ptr<A>(),
                  index.mutable_data_ptr<int64_t>());
  return {distance, index};
}

std::tuple<Tensor, Tensor> query(Tensor points, int64_t number, int64_t k, double max_distance) {
  const auto kept = trees().at(number);
  return std::visit([&](const auto& tree) { return ask(tree, points, k, max_distance); }, *kept);
}

template <typename A, int D>
Registered onto(const nn::Tree<A, D>& tree, const Tensor& source, const std::optional<Tensor>& normals,
                const Tensor& r, const Tensor& t, const Options& options) {
  check_like(tree, source, "source");
  require(source.size(0) > 0 && source.size(0) <= nn::kMostPoints, "source must have from 1 to 2^31 points");
  if (normals) {
    check_like(tree, *normals, "target_normals");
    require(normals->size(0) == tree.size, "target_normals must have one normal per target point");
  }
  check_motion(source, r, t);
  Registered out = make_outputs(source);
  register_to<A, D>(tree, source, normals, r, t, options, out);
  return out;
}

Registered icp(Tensor source, int64_t number, std::optional<Tensor> normals, Tensor r, Tensor t, double max_distance,
               int64_t max_iterations, double tolerance, double trim) {
  check_options(max_distance, max_iterations, tolerance, trim);
  const Options options{max_distance, max_iterations, tolerance, trim};
  const auto kept = trees().at(number);
  return std::visit([&](const auto& tree) { return onto(tree, source, normals, r, t, options); }, *kept);
}

}  // namespace
}  // namespace zoo::icp

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) {
  m.impl("point_tree", TORCH_BOX(&zoo::icp::point_tree));
  m.impl("point_tree_query", TORCH_BOX(&zoo::icp::query));
  m.impl("point_tree_icp", TORCH_BOX(&zoo::icp::icp));
}

// It has no tensor whose device could choose.
STABLE_TORCH_LIBRARY_IMPL(zoo, CompositeExplicitAutograd, m) { m.impl("point_tree_drop", TORCH_BOX(&zoo::icp::drop)); }
