// SPDX-License-Identifier: MIT
#include "device/probe.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "ctrl/control.h"
#include "server/data_path.h"
#include "sys/ring.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

struct FlagFeature {
  const char* name;
  uint64_t flag;
  const char* what;
};

constexpr std::array kFlags = {
    FlagFeature{"user_recovery", UBLK_F_USER_RECOVERY,
                "a device outlives its server (add -r)"},
    FlagFeature{"user_recovery_reissue", UBLK_F_USER_RECOVERY_REISSUE,
                "begun I/O is repeated (add -i)"},
    FlagFeature{"user_recovery_fail_io", UBLK_F_USER_RECOVERY_FAIL_IO,
                "I/O fails meanwhile (add -e)"},
    FlagFeature{"user_copy", UBLK_F_USER_COPY,
                "copying by pread and pwrite (add -u)"},
    FlagFeature{"need_get_data", UBLK_F_NEED_GET_DATA,
                "copying a write's data when asked to (add -g)"},
    FlagFeature{"zero_copy", UBLK_F_SUPPORT_ZERO_COPY,
                "registered buffers (add -z)"},
    FlagFeature{"auto_buf_reg", UBLK_F_AUTO_BUF_REG,
                "automatic registration of buffers (add --auto-zc)"},
    FlagFeature{"batch_io", UBLK_F_BATCH_IO, "delivery in batches (add -b)"},
    FlagFeature{"shmem_zero_copy", UBLK_F_SHMEM_ZC,
                "zero copy of shared memory"},
    FlagFeature{"update_size", UBLK_F_UPDATE_SIZE, "resizing"},
    FlagFeature{"quiesce", UBLK_F_QUIESCE, "an upgrade of the server"},
};

constexpr const char* kBpfHow =
    "on a Debian kernel 6.12, 7.2 or 7.3: load the replacement ublk_drv module "
    "(package ublk-bpf-dkms, or kernel/scripts/build-module), signed by a key "
    "that this host knows where Secure Boot is on; or boot a kernel with the "
    "series of kernel/patches";

std::string bpf_how(const FaceInfo& face, uint64_t features) {
  if (!face.has_btf) return "a kernel with CONFIG_DEBUG_INFO_BTF";
  if (face.face == Face::none && face.has_kfunc)
    return "load a newer ublk_drv: this one has version 1 of the BPF part";
  if (face.face == Face::none && face.prog_type)
    return "load ublk_drv; if it is loaded, it has lost its BTF: build it "
           "where vmlinux and pahole are";
  if (face.face == Face::none) return kBpfHow;
  if (!(features & UBLK_F_BPF))
    return "load the ublk_drv that has the BPF part";
  return {};
}

Feature ring_feature() {
  Feature feature{.name = "io_uring",
                  .available = false,
                  .needs = "io_uring with SQEs of 128 bytes",
                  .how = {}};
  auto ring = Ring::for_control();
  feature.available = ring.has_value();
  if (!ring)
    feature.how = ring.error().hint_text().empty() ? ring.error().message()
                                                   : ring.error().hint_text();
  return feature;
}

// `no_features`: why the driver's features are not known.
void add_bpf_features(Probe& result, uint64_t features,
                      const std::string& no_features) {
  const std::string how = bpf_how(result.face, features);
  result.features.push_back(
      {.name = "bpf",
       .available = how.empty(),
       .needs = "bpf_ublk_queue_sqe(), and BPF_PROG_TYPE_UBLK or struct "
                "ublk_bpf_sqe_ops",
       .how =
           how.empty() || no_features.empty() || result.face.face == Face::none
               ? how
               : no_features});
  const bool completes = how.empty() && result.face.version >= 2;
  result.features.push_back(
      {.name = "bpf_completion",
       .available = completes,
       .needs = "version 2 of the BPF part: completion programs, errors to the "
                "server, drain",
       .how = completes     ? ""
              : how.empty() ? "a newer ublk_drv, or a newer series"
                            : "see bpf above"});
}

// The key is the one that DKMS makes and signs with (docs/kernels.md).
constexpr const char* kEnrol =
    "this kernel takes only modules that are signed with a key that it knows. "
    "Enrol the key: mokutil --import /var/lib/dkms/mok.pub, then reboot and "
    "confirm it";

// `no_driver`: why it has not answered.
std::vector<std::string> advice_for(const Probe& found,
                                    const std::optional<Error>& no_driver) {
  if (found.can_attach) return {};
  std::vector<std::string> steps;
  const bool denied =
      no_driver && (no_driver->code() == EACCES || no_driver->code() == EPERM);
  if (no_driver && !found.ublk_module)
    steps.emplace_back("modprobe ublk_drv");
  else if (denied || ::geteuid() != 0)
    steps.emplace_back("run this as root, who can see what the driver offers");
  else if (no_driver)
    steps.push_back(no_driver->line());
  if (!found.face.has_btf)
    steps.emplace_back("boot a kernel with CONFIG_DEBUG_INFO_BTF");
  else if (found.face.face == Face::none && !denied)
    steps.push_back(
        fmt("to attach programs: {}", bpf_how(found.face, UBLK_F_BPF)));
  const FaceInfo& face = found.face;
  const bool lacks_module =
      face.face == Face::none && !face.has_kfunc && !face.prog_type;
  if (face.has_btf && lacks_module && demands_signed_modules(""))
    steps.emplace_back(kEnrol);
  if (!no_driver)
    steps.emplace_back(
        "without a program ublk-bpf add serves devices from user space");
  return steps;
}

}  // namespace

bool demands_signed_modules(const std::string& root) {
  const auto text = [&](const char* path) {
    return read_text(root + path).value_or("");
  };
  if (text("/sys/module/module/parameters/sig_enforce").starts_with('Y'))
    return true;
  // "none [integrity] confidentiality"
  const std::string lockdown = text("/sys/kernel/security/lockdown");
  if (lockdown.contains('[') && !lockdown.contains("[none]")) return true;
  // Four bytes of attributes, and the value.
  const std::string secure_boot = text(
      "/sys/firmware/efi/efivars/"
      "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
  return secure_boot.size() == 5 && secure_boot[4] == 1;
}

Probe probe() {
  Probe result;
  utsname name{};
  ::uname(&name);
  result.kernel = name.release;
  result.face = detect_face();
  result.ublk_module = ::access("/dev/ublk-control", F_OK) == 0;
  result.features.push_back(ring_feature());

  uint64_t features = 0;
  std::string no_features;
  auto control = Control::open();
  auto asked = control ? control->features()
                       : Result<uint64_t>(std::unexpected(control.error()));
  if (asked) {
    features = *asked;
    result.data_path = (*choose_data_path(kAutoDataPath, features))->name;
  } else {
    no_features = asked.error().line();
  }
  result.features.push_back({.name = "ublk",
                             .available = asked.has_value(),
                             .needs = "the driver ublk_drv, and root",
                             .how = no_features});
  result.features.push_back(
      {.name = "btf",
       .available = result.face.has_btf,
       .needs = "CONFIG_DEBUG_INFO_BTF",
       .how =
           result.face.has_btf ? "" : "a kernel with CONFIG_DEBUG_INFO_BTF"});
  add_bpf_features(result, features, no_features);
  for (const FlagFeature& flag : kFlags) {
    const bool available = features & flag.flag;
    std::string get;
    if (!available)
      get =
          no_features.empty() ? "a newer kernel's ublk_drv" : "see ublk above";
    result.features.push_back({.name = flag.name,
                               .available = available,
                               .needs = fmt("ublk_drv: {}", flag.what),
                               .how = get});
  }
  const auto bpf = std::ranges::find(result.features, "bpf", &Feature::name);
  result.can_attach = bpf->available && asked.has_value();
  result.advice =
      advice_for(result, asked ? std::nullopt : std::optional(asked.error()));
  return result;
}

}  // namespace ublk
