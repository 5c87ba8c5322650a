// SPDX-License-Identifier: MIT
#include "server/target.h"

#include <array>
#include <cerrno>

#include "sys/sizes.h"

namespace ublk {

namespace {
constexpr std::array<const TargetOps*, 5> kTargets = {
    &kNullTarget, &kLoopTarget, &kMirrorTarget, &kCloneTarget, &kFaultTarget};

// The driver takes any number. What is not a multiple of a block would make the
// block layer split requests within one, which it then fails.
Result<void> check_chunk(const TargetSpec& spec,
                         const ublk_param_basic& basic) {
  const uint64_t block = uint64_t{1} << basic.logical_bs_shift;
  if (spec.chunk_bytes % block)
    return fail(EINVAL, "--chunk {}: is not a multiple of the block size {}",
                spec.chunk_bytes, block);
  if (spec.chunk_bytes >> kSectorShift > UINT32_MAX)
    return fail(EINVAL, "--chunk {}: is more than the driver's 2T",
                spec.chunk_bytes);
  return {};
}

}  // namespace

std::span<const TargetOps* const> all_targets() { return kTargets; }

Result<const TargetOps*> find_target(std::string_view name) {
  std::string names;
  for (const TargetOps* ops : all_targets()) {
    if (ops->name == name) return ops;
    names += names.empty() ? "" : ", ";
    names += ops->name;
  }
  return fail(EINVAL, "no target '{}'; there are: {}", name, names);
}

Result<const TargetOps*> file_target(const TargetSpec& spec) {
  const TargetOps* ops = TRY(find_target(spec.type));
  if (!ops->wraps) {
    if (spec.over.empty() && spec.faults.empty()) return ops;
    return fail(EINVAL, "target {}: takes no --over and no --fault", spec.type);
  }
  if (spec.over.empty())
    return fail(EINVAL, "target {}: needs another one: --over TARGET",
                spec.type);
  if (spec.faults.empty())
    return fail(EINVAL, "target {}: needs a rule: --fault RULE", spec.type);
  const TargetOps* inner = TRY_IN("--over", find_target(spec.over));
  if (inner->wraps)
    return fail(EINVAL, "target {}: cannot be over {}", spec.type, spec.over);
  return inner;
}

bool is_mirror(const TargetSpec& spec) {
  const auto ops = file_target(spec);
  return ops && *ops == &kMirrorTarget;
}

bool is_clone(const TargetSpec& spec) {
  const auto ops = file_target(spec);
  return ops && *ops == &kCloneTarget;
}

Result<Target> open_target(const TargetSpec& spec) {
  Target target;
  target.ops = TRY(find_target(spec.type));
  target.spec = spec;
  const TargetOps* file_ops = TRY(file_target(spec));
  if (target.ops->wraps) target.inner = file_ops;
  if (file_ops->takes_file && spec.files.size() != file_ops->nr_files)
    return fail(EINVAL, "target {}: needs {} (-f), {} given", spec.type,
                file_ops->nr_files == 1 ? "one file"
                                        : fmt("{} files", file_ops->nr_files),
                spec.files.size());
  if (!file_ops->takes_file && !spec.files.empty())
    return fail(EINVAL, "target {}: takes no file", spec.type);
  TRY(target.ops->init(target));
  TRY(check_chunk(spec, target.params.basic));
  return target;
}

void set_basic_params(Target& target, uint64_t size_bytes,
                      uint32_t block_bytes) {
  ublk_params& params = target.params;
  params.types = UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DMA_ALIGN;
  // The server copies, but a program sends the request's own pages to a file,
  // and most devices want memory in sectors for direct I/O.
  params.dma.alignment = (1u << kSectorShift) - 1;
  ublk_param_basic& basic = params.basic;
  if (target.spec.read_only) basic.attrs |= UBLK_ATTR_READ_ONLY;
  const uint8_t shift = shift_of(block_bytes);
  basic.logical_bs_shift = shift;
  basic.physical_bs_shift = shift;
  basic.io_min_shift = shift;
  basic.io_opt_shift = shift;
  basic.max_sectors = target.spec.max_io_bytes >> kSectorShift;
  basic.chunk_sectors =
      static_cast<uint32_t>(target.spec.chunk_bytes >> kSectorShift);
  basic.dev_sectors =
      (size_bytes & ~(uint64_t{block_bytes} - 1)) >> kSectorShift;
}

}  // namespace ublk
