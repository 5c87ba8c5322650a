// SPDX-License-Identifier: MIT
#include "prog/face.h"

#include <bpf/btf.h>
#include <ublk_bpf.h>

#include <memory>

#include "prog/libbpf_log.h"

namespace ublk {

namespace {

using BtfPtr = std::unique_ptr<btf, decltype(&btf__free)>;

// As btf__find_by_name_kind() does, but what is a module's own first: the
// kernel's types are a hundred times as many, and to look through them is most
// of what an attachment's user waits for.
int find(const btf* types, const char* name, uint32_t kind) {
  const btf* base = btf__base_btf(types);
  if (!base) return btf__find_by_name_kind(types, name, kind);
  for (uint32_t id = btf__type_cnt(base); id < btf__type_cnt(types); id++) {
    const btf_type* type = btf__type_by_id(types, id);
    if (btf_kind(type) == kind &&
        std::string_view(btf__name_by_offset(types, type->name_off)) == name)
      return static_cast<int>(id);
  }
  return btf__find_by_name_kind(base, name, kind);
}

// The value of an enumerator, 0 if there is none.
uint32_t enum_value(const btf* types, const char* enum_name,
                    std::string_view name) {
  const int id = find(types, enum_name, BTF_KIND_ENUM);
  if (id < 0) return 0;
  const btf_type* type = btf__type_by_id(types, static_cast<uint32_t>(id));
  const struct btf_enum* values = btf_enum(type);
  for (int i = 0; i < btf_vlen(type); i++)
    if (name == btf__name_by_offset(types, values[i].name_off))
      return static_cast<uint32_t>(values[i].val);
  return 0;
}

bool has(const btf* types, const char* name, uint32_t kind) {
  return types && find(types, name, kind) > 0;
}

// bpf_ublk_queue_sqe(ctx, sqe, sqe__sz, target).
bool has_kfunc(const btf* types) {
  if (!types) return false;
  const int id = find(types, "bpf_ublk_queue_sqe", BTF_KIND_FUNC);
  if (id < 0) return false;
  const btf_type* proto =
      btf__type_by_id(types, btf__type_by_id(types, id)->type);
  if (!proto || !btf_is_func_proto(proto) || btf_vlen(proto) != 4) return false;
  const auto name = [&](int i) {
    return std::string_view(
        btf__name_by_offset(types, btf_params(proto)[i].name_off));
  };
  return name(1) == "sqe" && name(2) == "sqe__sz" && name(3) == "target";
}

// Each version's context is longer than the one's before.
uint32_t version_of(const btf* types) {
  const int id = find(types, "ublk_bpf_ctx", BTF_KIND_STRUCT);
  if (id < 0) return 0;
  return btf__type_by_id(types, id)->size < sizeof(ublk_bpf_ctx) ? 1 : 2;
}

}  // namespace

FaceInfo face_of(const btf* vmlinux, const btf* driver) {
  FaceInfo info;
  info.has_btf = vmlinux != nullptr;
  // The driver's BTF has the kernel's below it.
  const btf* types = driver ? driver : vmlinux;
  if (!has_kfunc(types)) types = nullptr;
  if (vmlinux)
    info.prog_type = enum_value(vmlinux, "bpf_prog_type", "BPF_PROG_TYPE_UBLK");
  if (!types) return info;
  info.has_kfunc = true;
  info.version = version_of(types);
  if (info.prog_type)
    info.face = Face::program_type;
  else if (has(driver, "ublk_bpf_sqe_ops", BTF_KIND_STRUCT))
    info.face = Face::struct_ops;
  return info;
}

FaceInfo detect_face() {
  // The module's BTF is missing on most kernels: not worth a line.
  const LibbpfLog quiet;
  const BtfPtr vmlinux(btf__load_vmlinux_btf(), &btf__free);
  if (!vmlinux) return {};
  const BtfPtr module(btf__load_module_btf("ublk_drv", vmlinux.get()),
                      &btf__free);
  return face_of(vmlinux.get(), module.get());
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
