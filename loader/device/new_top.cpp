// SPDX-License-Identifier: MIT
#include "device/new_top.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "device/device.h"
#include "layer/extents.h"
#include "layer/layer.h"
#include "server/clone.h"

namespace ublk {

namespace {

namespace fs = std::filesystem;

std::string directory_of(const std::string& path) {
  const auto dir = fs::path(path).parent_path();
  return dir.empty() ? "." : dir.string();
}

Result<std::string> absolute(const std::string& path) {
  std::error_code failed;
  const auto dir = fs::canonical(directory_of(path), failed);
  if (failed)
    return fail_sys(failed.value(), "{}: looking at its directory", path);
  return (dir / fs::path(path).filename()).string();
}

Result<UniqueFd> open_directory(const std::string& path) {
  return UniqueFd::open(directory_of(path), O_RDONLY | O_DIRECTORY);
}

Result<FileIdentity> identity_of(const std::string& path) {
  const UniqueFd fd = TRY(UniqueFd::open(path, O_PATH));
  return TRY_IN(path, FileIdentity::of(fd.get()));
}

bool is_file(const std::string& path, const FileIdentity& wanted) {
  const auto identity = identity_of(path);
  return identity && identity->same_as(wanted);
}

bool is_there(const std::string& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

// How a layer in this directory names a file: so that both can be moved
// together.
std::string name_from(const std::string& layer, const std::string& path) {
  return directory_of(layer) == directory_of(path)
             ? fs::path(path).filename().string()
             : path;
}

Result<LayerChain> look(const TargetSpec& spec) {
  if (!is_clone(spec))
    return fail(EINVAL, "its target is {}: only a clone has layers", spec.type);
  if (spec.read_only)
    return fail(EINVAL, "{}: the device is read-only, so nothing has changed",
                spec.files[0]);
  if (!spec.identities.empty() &&
      !is_file(spec.files[0], spec.identities.front()))
    return fail(ESTALE, "{}: is another file than the device has",
                spec.files[0]);
  auto chain = TRY(LayerChain::open(spec.files[0], {}, Layer::Use::look));
  if (chain.layers.front().file().is_block)
    return fail(EINVAL,
                "{}: is a block device, whose place no other layer can take",
                spec.files[0]);
  return chain;
}

}  // namespace

Result<std::unique_ptr<NewTop>> NewTop::make(const TargetSpec& spec,
                                             const NewTopRequest& request,
                                             const Note& note) {
  const LayerChain chain = TRY(look(spec));
  std::unique_ptr<NewTop> made(new NewTop(request));
  TRY(made->find_place(chain));
  TRY(note(made->state()));
  if (made->keeps_old()) TRY(made->link_old(chain));
  TRY(made->make_layer(chain));
  TRY(made->open(spec));
  // Most of what has to be durable before the clone goes on, is now.
  if (::fdatasync(chain.layers.front().metadata_fd()) != 0)
    return fail_sys(errno, "{}: fdatasync", made->top_);
  return made;
}

NewTop::~NewTop() {
  if (in_place_) return;
  if (made_) ::unlinkat(dir_.get(), new_name_.c_str(), 0);
  if (linked_)
    ::unlinkat(sealed_dir_.get(), fs::path(sealed_).filename().c_str(), 0);
}

Result<void> NewTop::find_place(const LayerChain& chain) {
  old_ = chain.layers.front().file().identity;
  top_ = chain.layers.front().file().path;
  name_ = fs::path(top_).filename().string();
  new_name_ = fmt(".{}.new", name_);
  dir_ = TRY(open_directory(top_));
  const std::string made = (fs::path(directory_of(top_)) / new_name_).string();
  // Of a command that did not come to its end. Whatever else it is stays.
  if (is_there(made) && !Layer::is_layer(made).value_or(false))
    return fail(EEXIST,
                "{}: is in the way: the new layer has this name while it is "
                "made",
                made);
  if (!keeps_old()) return {};
  sealed_ = TRY(absolute(request_.sealed));
  sealed_dir_ = TRY(open_directory(sealed_));
  if (is_there(sealed_)) return std::unexpected(in_the_way());
  const LayerBase& base = chain.layers.front().header().base;
  if (base.kind != LayerBase::Kind::none &&
      !fs::path(base.stored_path).is_absolute() &&
      directory_of(sealed_) != directory_of(top_))
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: would look for its base {} in its own directory, "
                         "where it is not",
                         sealed_, base.stored_path))
            .hint(fmt("a name in {}", directory_of(top_))));
  return {};
}

Error NewTop::in_the_way() const {
  Error error = Error::plain(
      EEXIST, fmt("{}: is there already, and is not overwritten", sealed_));
  if (sealed_ == top_ || !is_file(sealed_, old_)) return error;
  return std::move(error).hint(
      "it is the device's layer under another name, as a snapshot leaves it "
      "that the power interrupted: the name can be removed");
}

// A second name of the old top: it is the only one when the first has been
// given to the new one. Of the file that is open, whatever has its name.
Result<void> NewTop::link_old(const LayerChain& chain) {
  const std::string open =
      fmt("/proc/self/fd/{}", chain.layers.front().metadata_fd());
  if (::linkat(AT_FDCWD, open.c_str(), sealed_dir_.get(),
               fs::path(sealed_).filename().c_str(), AT_SYMLINK_FOLLOW) == 0) {
    linked_ = true;
    return {};
  }
  const int code = errno;
  if (code == EEXIST) return std::unexpected(in_the_way());
  Error error = Error::sys(code, fmt("{}: link to {}", sealed_, top_));
  if (code == EXDEV)
    return std::unexpected(std::move(error).hint(
        fmt("the snapshot is the layer itself, so its name has to be on the "
            "same file system: in {}, say",
            directory_of(top_))));
  return std::unexpected(std::move(error));
}

Result<void> NewTop::choose_base(const LayerChain& chain,
                                 Layer::CreateOptions& options) const {
  const LayerBase& base = chain.layers.front().header().base;
  if (keeps_old()) {
    options.base = name_from(top_, sealed_);
    options.base_kind = LayerBase::Kind::layer;
    options.seal_base = false;
    return {};
  }
  if (base.kind == LayerBase::Kind::none)
    return fail(EINVAL, "{}: is on nothing: there is no snapshot to go back to",
                top_);
  if (request_.onto.empty()) {
    options.base = base.stored_path;
    options.base_kind = base.kind;
    return {};
  }
  const uint32_t depth = TRY(depth_of_layer(chain, request_.onto));
  if (depth == 0)
    return fail(EINVAL, "{}: is the layer that is to be reset", request_.onto);
  const bool is_layer = depth < chain.layers.size();
  options.base = name_from(
      top_, is_layer ? chain.layers[depth].file().path : chain.base->path);
  options.base_kind = is_layer ? LayerBase::Kind::layer : LayerBase::Kind::file;
  return {};
}

Result<void> NewTop::make_layer(const LayerChain& chain) {
  const LayerHeader& old = chain.layers.front().header();
  Layer::CreateOptions options{
      .path = (fs::path(directory_of(top_)) / new_name_).string(),
      .size_bytes = old.size_bytes,
      .block_bytes = old.block_bytes};
  TRY(choose_base(chain, options));
  ::unlinkat(dir_.get(), new_name_.c_str(), 0);
  TRY(Layer::create(options));
  made_ = true;
  struct stat st{};
  const UniqueFd fd = TRY(UniqueFd::open_at(dir_.get(), new_name_, O_RDONLY));
  if (::fstat(chain.layers.front().metadata_fd(), &st) != 0 ||
      ::fchown(fd.get(), st.st_uid, st.st_gid) != 0 ||
      ::fchmod(fd.get(), st.st_mode & 07777) != 0 || ::fsync(fd.get()) != 0)
    return fail_sys(errno, "{}: giving it owner and mode of {}", options.path,
                    top_);
  return {};
}

Result<void> NewTop::open(const TargetSpec& spec) {
  TargetSpec next = spec;
  next.files[0] = (fs::path(directory_of(top_)) / new_name_).string();
  next.identities.clear();
  next.layers.clear();
  next.base_later = keeps_old();
  target_ = TRY(open_target(next));
  target_.spec.base_later = false;
  target_.spec.files[0] = target_.spec.layers[0].path = top_;
  target_.clone->set_name(top_);
  return {};
}

NewTopState NewTop::state() const {
  return {.identities = target_.spec.identities,
          .layers = target_.spec.layers,
          .made = (fs::path(directory_of(top_)) / new_name_).string(),
          .sealed = sealed_,
          .in_place = in_place_};
}

Result<void> NewTop::put_in_place() {
  // The old one's other name is all that it will have.
  if (keeps_old() && ::fsync(sealed_dir_.get()) != 0)
    return fail_sys(errno, "{}: fsync", directory_of(sealed_));
  const UniqueFd now = TRY(UniqueFd::open_at(dir_.get(), name_, O_PATH));
  if (!TRY_IN(top_, FileIdentity::of(now.get())).same_as(old_))
    return fail(ESTALE, "{}: is another file by now", top_);
  if (::renameat(dir_.get(), new_name_.c_str(), dir_.get(), name_.c_str()) != 0)
    return fail_sys(errno, "{}: rename of the new layer", top_);
  in_place_ = true;
  if (::fsync(dir_.get()) != 0)
    return fail_sys(errno, "{}: fsync", directory_of(top_));
  return {};
}

void move_to_new_top(DeviceState& state) {
  NewTopState& next = *state.new_top;
  state.target.identities = next.identities;
  state.target.layers = next.layers;
  // Those of the old top. All that it had is on its disk.
  state.clone_maps = {};
  next.in_place = true;
}

Result<void> clear_new_top(const StateStore& states, uint32_t dev_id) {
  const UniqueFd held = TRY_IN(device_name(dev_id), states.hold_device(dev_id));
  auto state = states.load(dev_id);
  // Not a device of ours, which was the error.
  if (!state) return {};
  return resolve_new_top(states, *state);
}

namespace {

// What was made before the new layer got its place. The old one's other name
// goes only if it has one more.
void take_back(const NewTopState& made, const std::string& top,
               const FileIdentity& old) {
  if (Layer::is_layer(made.made).value_or(false)) ::unlink(made.made.c_str());
  struct stat st{};
  if (!made.sealed.empty() && made.sealed != top &&
      ::lstat(made.sealed.c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
      st.st_nlink > 1 && is_file(made.sealed, old) && is_file(top, old))
    ::unlink(made.sealed.c_str());
}

}  // namespace

Result<void> resolve_new_top(const StateStore& states, DeviceState& state) {
  if (!state.new_top || state.new_top->in_place) return {};
  const NewTopState next = *state.new_top;
  const std::string& top = state.target.files[0];
  const auto is = identity_of(top);
  // Whoever needs it says that it is not there.
  if (!is && is.error().code() == ENOENT) return {};
  TRY(is);
  if (!next.identities.empty() && is->same_as(next.identities.front())) {
    move_to_new_top(state);
  } else {
    take_back(next, top, *is);
    state.new_top.reset();
  }
  return states.change(state.dev_id, [&](DeviceState& saved) {
    saved.target.identities = state.target.identities;
    saved.target.layers = state.target.layers;
    saved.clone_maps = state.clone_maps;
    saved.new_top = state.new_top;
  });
}

}  // namespace ublk
