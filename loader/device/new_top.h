// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "device/state.h"
#include "layer/layer.h"
#include "server/target.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// A clone gets another top layer while its device is in use, by way of a new
// server. Of the states that an end in between can leave, each is one of these:
//
//   before the new layer is in the old one's place: the clone is what it was;
//   resolve_new_top() removes what was made
//   after it: what the old one's map had is on its disk, and the program, which
//   has been frozen before, changes it no more; it is sealed, or the first that
//   opens the clone seals it (LayerChain::open). The new one is empty until the
//   new server, or program, serves
struct NewTopRequest {
  enum class Kind : uint8_t {
    snapshot,  // on what was the top, which is sealed and gets another name
    reset,     // in place of it: what it had is gone
  };
  Kind kind = Kind::snapshot;
  // Snapshot: that name. Nothing may have it yet.
  std::string sealed{};
  // Reset: the layer of the chain that the new top is on. "": that which the
  // old one is on.
  std::string onto{};
};

// The new layer's files, and the target on it. Destruction closes it, and
// removes what was made if it is not in its place.
class NewTop {
 public:
  // Makes the layer beside the top of this clone, which may be in use, and
  // opens it. `note` keeps what is about to be made, for resolve_new_top().
  // EEXIST: something has the name. EXDEV: that is on another file system.
  // EINVAL: not a clone that is written, or not a layer of it.
  using Note = std::function<Result<void>(const NewTopState&)>;
  static Result<std::unique_ptr<NewTop>> make(const TargetSpec& spec,
                                              const NewTopRequest& request,
                                              const Note& note);
  NewTop(const NewTop&) = delete;
  ~NewTop();

  bool keeps_old() const {
    return request_.kind == NewTopRequest::Kind::snapshot;
  }
  // Its spec has the names that it will have.
  Target& target() { return target_; }
  NewTopState state() const;
  // It has the old one's name from then on, durably.
  Result<void> put_in_place();
  bool is_in_place() const { return in_place_; }

 private:
  explicit NewTop(NewTopRequest request) : request_(std::move(request)) {}
  Result<void> find_place(const LayerChain& chain);
  Result<void> link_old(const LayerChain& chain);
  Result<void> choose_base(const LayerChain& chain,
                           Layer::CreateOptions& options) const;
  Result<void> make_layer(const LayerChain& chain);
  Error in_the_way() const;
  Result<void> open(const TargetSpec& spec);

  NewTopRequest request_;
  std::string top_;       // absolute
  std::string name_;      // of it, in its directory
  std::string new_name_;  // likewise, until it is in its place
  std::string sealed_;    // absolute
  FileIdentity old_{};
  UniqueFd dir_;
  UniqueFd sealed_dir_;
  bool linked_ = false;
  bool made_ = false;
  bool in_place_ = false;
  Target target_;
};

// A state whose clone is between two tops becomes that of one of them, as what
// is on the disk says. Without one nothing is done. The caller has the device
// (StateStore::hold_device), and has loaded the state since.
Result<void> resolve_new_top(const StateStore& states, DeviceState& state);

// The same for a device that has such a state, if no other command is at it.
Result<void> clear_new_top(const StateStore& states, uint32_t dev_id);

// The state's clone has its new top.
void move_to_new_top(DeviceState& state);

}  // namespace ublk
