#include "core/exec/prepared.h"

#include <algorithm>
#include <new>

#include "core/exec/executor.h"
#include "core/layout/strides.h"
#include "core/microkernels/isa.h"
#include "core/runtime/scratch.h"

namespace fusedsplit {
namespace {

// Params that are read as they are: vectors, and kernels of products that are not packed by themselves.
std::vector<char> read_as_they_are(const Plan& plan, const Layout& many, const Layout& few) {
  std::vector<char> reads(plan.params.size());
  for (size_t p = 0; p < reads.size(); ++p) reads[p] = plan.params[p].rank == 1;
  for (const Layout* layout : {&many, &few})
    for (const Node& node : layout->nodes)
      if (node.by_panels) reads[static_cast<size_t>(node.step.kernel)] = 1;
  return reads;
}

}  // namespace

template <class T>
std::shared_ptr<const Prepared<T>> Executor<T>::prepare(const T* const* params) const {
  auto prepared = std::make_shared<Prepared<T>>();
  const std::vector<char> reads = read_as_they_are(plan_, layout_, few_);
  // Laid out twice: to measure, and then in memory of that size.
  size_t size = 0;
  for (int round = 0; round < 2; ++round) {
    Carver carver(prepared->memory.get(), round ? size : SIZE_MAX);
    T* joined = carver.take<T>(layout_.joined_size);
    T* many = carver.take<T>(layout_.packed_size);
    T* few = carver.take<T>(few_.packed_size);
    std::vector<T*> copies(plan_.params.size());
    for (size_t p = 0; p < copies.size(); ++p)
      if (reads[p]) copies[p] = carver.take<T>(plan_.params[p].size());
    if (round == 0) {
      size = carver.used();
      prepared->memory.reset(std::aligned_alloc(64, std::max<size_t>(size, 64)));
      if (!prepared->memory) throw std::bad_alloc();
      continue;
    }
    Workers workers(useful_workers(kWorkPerWeight * static_cast<double>(layout_.param_size)));
    Call call;
    call.kernels = prepared->kernels = &active_kernels<T>();
    call.workers = &workers;
    call.tensors.params = params;
    const Scratch kernel(static_cast<size_t>(layout_.join_kernel) * sizeof(T));
    workers.run(1, [&](ptrdiff_t, int) {
      for (const Join& join : layout_.joins)
        if (join.fresh)
          pack_join(*call.kernels, layout_, join, params, static_cast<T*>(kernel.data()), joined);
    });
    call.pack_kernels(layout_, Reader::kManyRows, many);
    call.pack_kernels(few_, Reader::kFewRows, few);
    for (size_t p = 0; p < copies.size(); ++p)
      if (reads[p]) std::copy_n(params[p], plan_.params[p].size(), copies[p]);
    prepared->params.assign(copies.begin(), copies.end());
    prepared->joined = layout_.joins.empty() ? nullptr : joined;
    prepared->many = many;
    prepared->few = few;
  }
  return prepared;
}

template std::shared_ptr<const Prepared<float>> Executor<float>::prepare(const float* const*) const;
template std::shared_ptr<const Prepared<double>> Executor<double>::prepare(const double* const*) const;

}  // namespace fusedsplit
