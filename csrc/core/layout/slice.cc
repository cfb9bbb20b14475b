#include "core/layout/slice.h"

#include <algorithm>
#include <map>

#include "core/layout/constants.h"
#include "core/runtime/assert.h"

namespace fusedsplit {
namespace {

using Span = std::pair<ptrdiff_t, ptrdiff_t>;

bool splittable(const Step& step) { return step.kind == StepKind::kDense || step.kind == StepKind::kMerge; }

class Slicer {
 public:
  Slicer(const Plan& plan, ptrdiff_t unit, ptrdiff_t most) : plan_(plan), unit_(unit), most_(most) {}

  Sliced run() {
    find_cuts();
    for (size_t v = 0; v < plan_.values.size(); ++v) {
      first_piece_.push_back(static_cast<int>(out_.values.size()));
      ptrdiff_t begin = 0;
      for (ptrdiff_t end : cuts_[v]) {
        out_.values.push_back({end - begin, plan_.values[v].role});
        begin = end;
      }
    }
    for (size_t i = 0; i < plan_.steps.size(); ++i) cut_step(plan_.steps[i], static_cast<int>(i));
    order();
    group();
    return std::move(out_);
  }

 private:
  // Whether columns [begin, end) are enough, and fill their vectors well enough, to be a piece.
  bool good_piece(ptrdiff_t begin, ptrdiff_t end) const {
    const ptrdiff_t width = end - begin, idle = (unit_ - width % unit_) % unit_;
    return width >= std::max<ptrdiff_t>(kLeastPiece, most_) && kPieceToIdle * idle <= width;
  }

  // The ends of the pieces of every value.
  void find_cuts() {
    std::vector<std::vector<Span>> whole(plan_.values.size());  // ranges that must not be cut
    for (const Step& step : plan_.steps) {
      for (const Source& s : step.sources) add_span(&whole, s.range);
      if (!splittable(step)) add_span(&whole, step.dst);
    }
    cuts_.resize(plan_.values.size());
    for (size_t v = 0; v < plan_.values.size(); ++v) {
      std::vector<ptrdiff_t>& cuts = cuts_[v];
      const ptrdiff_t width = plan_.values[v].width;
      if (plan_.values[v].role == Role::kHidden) {
        std::sort(whole[v].begin(), whole[v].end());
        ptrdiff_t begin = 0, reach = 0;
        for (const Span& span : whole[v]) {
          if (span.first >= reach && span.first > 0 && good_piece(begin, span.first)) {
            cuts.push_back(span.first);
            begin = span.first;
          }
          reach = std::max(reach, span.second);
        }
        if (!cuts.empty() && !good_piece(cuts.back(), width)) cuts.pop_back();
      }
      cuts.push_back(width);
    }
  }

  static void add_span(std::vector<std::vector<Span>>* spans, const Range& r) {
    (*spans)[static_cast<size_t>(r.value)].emplace_back(r.start, r.stop);
  }

  // The range, which lies within one piece, in the new numbering.
  Range moved(const Range& r) const {
    const auto& cuts = cuts_[static_cast<size_t>(r.value)];
    const auto piece = std::upper_bound(cuts.begin(), cuts.end(), r.start) - cuts.begin();
    FUSEDSPLIT_ASSERT(piece < static_cast<ptrdiff_t>(cuts.size()) &&
                      r.stop <= cuts[static_cast<size_t>(piece)]);
    const ptrdiff_t begin = piece ? cuts[static_cast<size_t>(piece - 1)] : 0;
    return {first_piece_[static_cast<size_t>(r.value)] + static_cast<int>(piece), r.start - begin,
            r.stop - begin};
  }

  // One node for each piece of a value that the step writes.
  void cut_step(const Step& step, int origin) {
    const auto& cuts = cuts_[static_cast<size_t>(step.dst.value)];
    for (ptrdiff_t begin = step.dst.start; begin < step.dst.stop;) {
      ptrdiff_t end = std::min(step.dst.stop, *std::upper_bound(cuts.begin(), cuts.end(), begin));
      if (most_ && step.kind == StepKind::kDense && end - begin >= 2 * most_) {
        // Near-equal parts of whole vectors.
        const ptrdiff_t parts = (end - begin + most_ - 1) / most_, part = (end - begin + parts - 1) / parts;
        end = std::min(end, begin + (part + unit_ - 1) / unit_ * unit_);
      }
      Node node;
      node.step = step;
      node.origin = origin;
      node.column = begin - step.dst.start;
      for (size_t s = 0; s < step.sources.size(); ++s) {
        Range r = step.sources[s].range;
        const bool columnwise = step.kind == StepKind::kMerge && r.width() == step.dst.width();
        if (columnwise) r = {r.value, r.start + node.column, r.start + end - step.dst.start};
        node.step.sources[s].range = moved(r);
      }
      node.step.dst = moved({step.dst.value, begin, end});
      out_.nodes.push_back(std::move(node));
      begin = end;
    }
  }

  using Writers = std::map<ptrdiff_t, size_t>;  // first column -> node

  // How far the search for what a node needs has come: to a column of one of its sources.
  struct Visit {
    size_t node, source;
    ptrdiff_t column;
  };

  // The writer of a column of the range's value, or the next one, if any.
  Writers::const_iterator first_writer(const Range& r, ptrdiff_t column) const {
    const Writers& writers = writers_[static_cast<size_t>(r.value)];
    auto it = writers.upper_bound(column);
    if (it != writers.begin() && out_.nodes[std::prev(it)->second].step.dst.stop > column) --it;
    return it;
  }

  // Nodes that write columns of a range, in the order of the columns.
  template <class Function>
  void for_writers(const Range& r, const Function& visit) const {
    const Writers& writers = writers_[static_cast<size_t>(r.value)];
    for (auto it = first_writer(r, r.start); it != writers.end() && it->first < r.stop; ++it)
      visit(it->second);
  }

  void order() {
    writers_.assign(out_.values.size(), {});
    for (size_t n = 0; n < out_.nodes.size(); ++n) {
      const Range& dst = out_.nodes[n].step.dst;
      writers_[static_cast<size_t>(dst.value)].emplace(dst.start, n);
    }
    // From each node that writes an output: what it needs, just before it.
    std::vector<size_t> sequence;
    std::vector<Visit> stack;  // one for each node on the way down, however much it reads
    std::vector<char> seen(out_.nodes.size());
    const auto visit = [&](size_t n) {
      if (!seen[n]) stack.push_back({n, 0, 0});
      seen[n] = 1;
    };
    for (size_t n = 0; n < out_.nodes.size(); ++n) {
      if (out_.values[static_cast<size_t>(out_.nodes[n].step.dst.value)].role == Role::kOutput) visit(n);
      while (!stack.empty()) {
        Visit& top = stack.back();
        const auto& sources = out_.nodes[top.node].step.sources;
        if (top.source == sources.size()) {
          sequence.push_back(top.node);
          stack.pop_back();
          continue;
        }
        const Range& r = sources[top.source].range;
        const auto& writers = writers_[static_cast<size_t>(r.value)];
        const auto writer = first_writer(r, std::max(r.start, top.column));
        if (writer == writers.end() || writer->first >= r.stop) {
          ++top.source;
          top.column = 0;
          continue;
        }
        top.column = out_.nodes[writer->second].step.dst.stop;
        visit(writer->second);
      }
    }
    std::vector<Node> ordered;
    for (size_t n : sequence) ordered.push_back(std::move(out_.nodes[n]));
    out_.nodes = std::move(ordered);
  }

  // A node that reads one chain of the latest stage it depends on continues that chain; one that joins
  // chains begins the next stage; one that reads inputs alone begins a chain of the first.
  void group() {
    writers_.assign(out_.values.size(), {});
    std::vector<int> chains;  // by stage
    for (size_t n = 0; n < out_.nodes.size(); ++n) {
      Node& node = out_.nodes[n];
      int stage = 0, chain = -1;
      bool joins = false;
      for (const Source& s : node.step.sources)
        for_writers(s.range, [&](size_t writer) { stage = std::max(stage, out_.nodes[writer].stage); });
      for (const Source& s : node.step.sources)
        for_writers(s.range, [&](size_t writer) {
          const Node& w = out_.nodes[writer];
          if (w.stage != stage) return;
          joins = joins || (chain >= 0 && chain != w.chain);
          chain = w.chain;
        });
      if (joins) ++stage;
      if (static_cast<size_t>(stage) >= chains.size()) chains.resize(static_cast<size_t>(stage) + 1);
      if (joins || chain < 0) chain = chains[static_cast<size_t>(stage)]++;
      node.stage = stage;
      node.chain = chain;
      writers_[static_cast<size_t>(node.step.dst.value)].emplace(node.step.dst.start, n);
    }
    // By stages, so that gradients add up in the same order whether chains run one by one or side by side.
    std::stable_sort(out_.nodes.begin(), out_.nodes.end(), [](const Node& a, const Node& b) {
      return std::make_pair(a.stage, a.chain) < std::make_pair(b.stage, b.chain);
    });
  }

  const Plan& plan_;
  const ptrdiff_t unit_, most_;
  Sliced out_;
  std::vector<std::vector<ptrdiff_t>> cuts_;
  std::vector<int> first_piece_;
  std::vector<Writers> writers_;  // by value
};

}  // namespace

Sliced slice_plan(const Plan& plan, ptrdiff_t unit, ptrdiff_t most) { return Slicer(plan, unit, most).run(); }

std::vector<int> count_reads(const std::vector<Node>& nodes, size_t values) {
  std::vector<int> reads(values);
  for (const Node& node : nodes)
    for (const Source& s : node.step.sources) ++reads[static_cast<size_t>(s.range.value)];
  return reads;
}

}  // namespace fusedsplit
