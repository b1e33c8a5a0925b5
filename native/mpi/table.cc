// Serves the table of collectives.h, through which the main addon uses the group.
#include "group.h"

namespace margin_softmax::distributed {
namespace {

Group& of(void* context) { return *static_cast<Group*>(context); }

bool report(const Status& status, CollectiveFailure* failure) {
  failure->failure = static_cast<int32_t>(status.failure);
  copyText(status.message.c_str(), failure->message);
  return static_cast<bool>(status);
}

bool post(void* context, Task* task) { return of(context).post(*task); }

bool allReduce(void* context, const char* purpose, void* values, int64_t count, Element element, ReduceOp reduceOp,
               CollectiveFailure* failure) {
  return report(of(context).allReduce(purpose, values, count, element, reduceOp), failure);
}

bool allGather(void* context, const char* purpose, const void* values, const int64_t* counts, void* all,
               Element element, CollectiveFailure* failure) {
  Group& group = of(context);
  const std::vector<int64_t> expected(counts, counts + group.size());
  const auto output = [&](const std::vector<int64_t>& lengths) { return lengths == expected ? all : nullptr; };
  return report(group.allGather(purpose, values, expected[static_cast<size_t>(group.rank())], element, output),
                failure);
}

bool reduceScatter(void* context, const char* purpose, const void* values, const int64_t* counts, void* mine,
                   Element element, ReduceOp reduceOp, CollectiveFailure* failure) {
  Group& group = of(context);
  const std::vector<int64_t> shares(counts, counts + group.size());
  return report(group.reduceScatter(purpose, values, shares, mine, element, reduceOp), failure);
}

bool broadcast(void* context, const char* purpose, void* values, int64_t count, int32_t root, Element element,
               CollectiveFailure* failure) {
  return report(of(context).broadcast(purpose, values, count, root, element), failure);
}

bool refuse(void* context, const char* purpose, const char* message, CollectiveFailure* failure) {
  return report(of(context).refuse(purpose, {Failure::distributed, message}), failure);
}

int64_t bytesSent(void* context) { return of(context).bytesSent(); }

Collectives tableOf(Group* group) {
  return {group, 0, 1, post, allReduce, allGather, reduceScatter, broadcast, refuse, bytesSent};
}

}  // namespace

Group::Group() : table_(tableOf(this)) {}

}  // namespace margin_softmax::distributed
