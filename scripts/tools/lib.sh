# Shared by the scripts that install what the tests and the demo run; to be
# sourced, not run. Each script installs one tool, NAME, into
# .cache/tools/NAME, its programs into .cache/tools/NAME/bin.
# shellcheck shell=bash

# The repository's own folders, without symlinks: some tools have the path of
# their folder written into them.
root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$root/.cache/tools"
tools=$(cd -P "$root/.cache/tools" && pwd)

# say WORDS… tells how far a script is.
say() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}

# fail WORDS… tells why a script cannot go on, and ends it.
fail() {
  say "$@"
  exit 1
}

# need PROGRAM… ends the script if one of the programs is not there.
need() {
  local program
  for program; do
    [[ -n $(type -P "$program") ]] || fail "$program is not installed, and is needed here"
  done
}

# as_root COMMAND… runs a command with the right to install packages.
as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# update_lists tries for a minute: apt-get does not wait for another's update.
update_lists() {
  local tries
  for ((tries = 0; tries < 20; tries++)); do
    as_root apt-get -qq update && return
    sleep 3
  done
  return 1
}

install_packages() {
  update_lists &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
      -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 install "$@"
}

# install_programs PROGRAM:PACKAGES… installs the packages of the programs that the
# system lacks, with spaces between them.
install_programs() {
  local entry packages log missing=()
  for entry; do
    [[ -z $(type -P "${entry%%:*}") ]] || continue
    read -ra packages <<<"${entry#*:}"
    missing+=("${packages[@]}")
  done
  ((${#missing[@]})) || return 0
  [[ -n $(type -P apt-get) ]] || fail "there is no apt-get here to install ${missing[*]} with; install them"
  if ((EUID != 0)) && ! sudo -n true 2>/dev/null; then
    fail "run this once as root, or: apt-get install --no-install-recommends ${missing[*]}"
  fi
  say "installing ${missing[*]}"
  log=$(install_packages "${missing[@]}" 2>&1) || {
    printf '%s\n' "$log" >&2
    fail "could not install ${missing[*]}"
  }
}

# install_tool NAME PIN FUNCTION has FUNCTION fill a new folder, its only
# argument, and moves that to .cache/tools/NAME. Does nothing if the folder there
# was made from the same PIN (versions and whatever else it depends on). Two
# runs at once make it once; a run that fails leaves what was there before.
install_tool() {
  local name=$1 pin=$2 make=$3 new old
  if [[ $(cat "$tools/$name/pin" 2>/dev/null) == "$pin" ]]; then return; fi

  need flock
  exec 9>"$tools/$name.lock"
  flock 9
  if [[ $(cat "$tools/$name/pin" 2>/dev/null) == "$pin" ]]; then return; fi

  new=$tools/$name.new old=$tools/$name.old
  remove_tree "$new"
  remove_tree "$old"
  mkdir "$new"
  "$make" "$new"
  printf '%s\n' "$pin" >"$new/pin"
  if [[ -e $tools/$name ]]; then mv "$tools/$name" "$old"; fi
  mv "$new" "$tools/$name"
  remove_tree "$old"
  exec 9>&-
}

# remove_tree FOLDER removes a folder that may have read-only ones in it.
remove_tree() {
  [[ -e $1 ]] || return 0
  chmod -R u+w "$1"
  rm -rf "$1"
}

# debian_mirror prints where this machine's apt gets Debian (or Ubuntu) from.
# apt says so even before its first update.
debian_mirror() {
  local codename mirror
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mirror=$(env -u APT_CONFIG apt-get --print-uris update 2>/dev/null |
    sed -n "s|^'\(.*\)/dists/$codename/main/binary-.*|\1|p" | sed -n 1p)
  [[ -n $mirror ]] || fail "apt's configuration names no mirror for \"$codename main\""
  printf '%s\n' "$mirror"
}

# debian_apt FOLDER SUITE makes FOLDER the home of an apt of its own, with the
# packages of a suite of Debian or Ubuntu and nothing installed, to be used as
# APT_CONFIG=FOLDER/apt.conf apt-get download …: nothing of the system is
# touched, and no right but writing to FOLDER is needed.
debian_apt() {
  local apt=$1 suite=$2 mirror keyring
  need apt-get dpkg-deb
  mirror=$(debian_mirror)
  mkdir -p "$apt"/{state/lists/partial,cache/archives/partial}

  # apt's way of fetching (proxies and so on) is the machine's; the rest is ours.
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  if [[ -e /usr/share/keyrings/ubuntu-archive-keyring.gpg && ! -e $keyring ]]; then
    keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg
  fi
  printf 'deb [signed-by=%s] %s %s main %s\n' "$keyring" "$mirror" "$suite" \
    "$([[ $keyring != */ubuntu-* ]] || echo universe)" >"$apt/sources.list"
  : >"$apt/status" # nothing is installed, so everything needed is listed
  {
    env -u APT_CONFIG apt-config dump --format '%F "%v";%n' Acquire
    cat <<END
Acquire::Languages "none";
APT::Sandbox::User "";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
END
  } >"$apt/apt.conf"
  APT_CONFIG=$apt/apt.conf apt-get -qq update >&2 ||
    fail "could not read the list of packages of $suite at $mirror, which apt is set up with here"
}

# debian_unpack FOLDER SUITE LEAVE_OUT PACKAGE… unpacks packages of a suite and
# all that they depend on into FOLDER, without installing them, see debian_apt.
# Packages whose whole name matches the extended regular expression LEAVE_OUT
# are left out, for example those that only installing needs.
debian_unpack() {
  local folder=$1 suite=$2 leave_out=$3 apt=$1.apt packages package
  shift 3
  remove_tree "$apt"
  mkdir -p "$folder"
  debian_apt "$apt" "$suite"

  # Lines without indentation are the packages; <…> are virtual ones.
  packages=$(APT_CONFIG=$apt/apt.conf apt-cache depends --recurse --no-recommends \
    --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
    grep -E '^[a-z0-9]' | grep -vE ':' | grep -vxE "$leave_out" | sort -u)
  mkdir "$apt/packages"
  # shellcheck disable=SC2086 # one word a package
  (cd "$apt/packages" && APT_CONFIG=$apt/apt.conf apt-get -qq download $packages >&2)
  for package in "$apt"/packages/*.deb; do
    dpkg-deb -x "$package" "$folder"
  done
  remove_tree "$apt"
}

# For debian_unpack of a kernel and busybox: what they depend on, which is every other
# name than linux-image-NUMBER and busybox-static.
# shellcheck disable=SC2034 # used by the scripts that source this one
no_dependencies='([^lb]|l[^i]|li[^n]|linux-[^i]|b[^u]).*'

# copy_modules UNPACKED TO MODULE… copies modules of an unpacked kernel, named in the
# order in which to load them, which is the order given.
copy_modules() {
  local unpacked=$1 to=$2 module file number=0
  shift 2
  for module; do
    number=$((number + 1))
    file=$(find "$unpacked" -name "$module.ko")
    [[ -n $file ]] || continue # built into this kernel
    cp "$file" "$to/$(printf %02d "$number")-$module.ko"
  done
}
