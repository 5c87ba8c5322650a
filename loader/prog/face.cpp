// SPDX-License-Identifier: MIT
#include "prog/face.h"

#include <bpf/btf.h>

#include <memory>

#include "prog/libbpf_log.h"

namespace ublk {

namespace {

using BtfPtr = std::unique_ptr<btf, decltype(&btf__free)>;

// The value of an enumerator, 0 if there is none.
uint32_t enum_value(const btf* types, const char* enum_name,
                    std::string_view name) {
  const int id = btf__find_by_name_kind(types, enum_name, BTF_KIND_ENUM);
  if (id < 0) return 0;
  const btf_type* type = btf__type_by_id(types, static_cast<uint32_t>(id));
  const struct btf_enum* values = btf_enum(type);
  for (int i = 0; i < btf_vlen(type); i++)
    if (name == btf__name_by_offset(types, values[i].name_off))
      return static_cast<uint32_t>(values[i].val);
  return 0;
}

bool has(const btf* types, const char* name, uint32_t kind) {
  return types && btf__find_by_name_kind(types, name, kind) > 0;
}

}  // namespace

FaceInfo detect_face() {
  constexpr const char* kfunc = "bpf_ublk_queue_sqe";
  // The module's BTF is missing on most kernels: not worth a line.
  const LibbpfLog quiet;
  FaceInfo info;
  const BtfPtr vmlinux(btf__load_vmlinux_btf(), &btf__free);
  if (!vmlinux) return info;
  info.has_btf = true;
  info.prog_type =
      enum_value(vmlinux.get(), "bpf_prog_type", "BPF_PROG_TYPE_UBLK");
  if (info.prog_type && has(vmlinux.get(), kfunc, BTF_KIND_FUNC)) {
    info.face = Face::program_type;
    info.has_kfunc = true;
    return info;
  }
  const BtfPtr module(btf__load_module_btf("ublk_drv", vmlinux.get()),
                      &btf__free);
  const btf* driver = module.get();
  info.has_kfunc = has(driver, kfunc, BTF_KIND_FUNC);
  if (info.prog_type)
    info.face = Face::program_type;
  else if (has(driver, "ublk_bpf_ops", BTF_KIND_STRUCT))
    info.face = Face::struct_ops;
  return info;
}

std::string_view face_name(Face face) {
  switch (face) {
    case Face::program_type:
      return "program_type";
    case Face::struct_ops:
      return "struct_ops";
    case Face::none:
      break;
  }
  return "none";
}

}  // namespace ublk
