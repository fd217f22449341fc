//! Where the cgroups of a process are, from its `/proc/self/cgroup` and `/proc/self/mountinfo`. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What begins the name of every keeper's cgroup.
pub(super) const NAME_PREFIX: &str = "openclaw-";
/// The cgroup of the keeper itself, where agents may not be beside it (version 2).
pub(super) const KEEPER_LEAF: &str = "keeper";

/// What a cgroup can limit or count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processes and threads.
    Processes,
    /// CPU time, limited.
    Cpu,
    /// CPU time, counted. Version 2 counts without a controller.
    CpuAccounting,
    /// Bytes written to a device.
    Io,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Processes, Self::Cpu, Self::CpuAccounting, Self::Io];

    /// What version 1 calls it.
    pub fn v1_name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "pids",
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
            Self::Io => "blkio",
        }
    }

    /// What version 2 calls it, if it has it.
    pub fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("memory"),
            Self::Processes => Some("pids"),
            Self::Cpu => Some("cpu"),
            Self::CpuAccounting => None,
            Self::Io => Some("io"),
        }
    }
}

/// The process's own cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The hierarchy is not mounted.
    NotMounted,
    /// It is mounted, but from a place that the own cgroup is not below.
    Hidden {
        /// The own cgroup.
        own: String,
    },
    /// Its directory.
    At(PathBuf),
}

/// The process's own cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of version 1, by controller; those that are not mounted are left out.
    pub v1: BTreeMap<Controller, Place>,
    /// Of version 2.
    pub v2: Place,
}

/// Understands the two files. Lines that it does not understand do not count.
pub fn parse(own_cgroup: &str, mountinfo: &str) -> Layout {
    let mut layout = Layout { v1: BTreeMap::new(), v2: Place::NotMounted };
    for mount in mountinfo.lines().filter_map(Mount::parse) {
        if mount.kind == "cgroup2" {
            let place = mount.place(own_path(own_cgroup, ""));
            // The first one that shows the own cgroup counts.
            if !matches!(layout.v2, Place::At(_)) {
                layout.v2 = above_own_leaf(place);
            }
        } else {
            for controller in Controller::ALL {
                let name = controller.v1_name();
                let seen = matches!(layout.v1.get(&controller), Some(Place::At(_)));
                if !seen && mount.options.split(',').any(|option| option == name) {
                    layout.v1.insert(controller, mount.place(own_path(own_cgroup, name)));
                }
            }
        }
    }
    layout
}

/// A keeper that an earlier one of the same cgroup has left its own leaf to goes on in the same subtree.
fn above_own_leaf(place: Place) -> Place {
    let Place::At(path) = &place else { return place };
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let above = path.parent().filter(|_| name(path).as_deref() == Some(KEEPER_LEAF));
    let above = above.filter(|above| name(above).is_some_and(|name| name.starts_with(NAME_PREFIX)));
    above.and_then(Path::parent).map_or(place.clone(), |directory| Place::At(directory.to_owned()))
}

/// The path of the own cgroup in the hierarchy of a controller; the empty name is that of version 2.
fn own_path<'a>(own_cgroup: &'a str, controller: &str) -> Option<&'a str> {
    own_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let unified = number == "0" && names.is_empty();
        let found = if controller.is_empty() { unified } else { names.split(',').any(|n| n == controller) };
        found.then_some(path)
    })
}

/// A mounted hierarchy.
struct Mount<'a> {
    kind: &'a str,
    /// What part of the hierarchy is mounted.
    root: String,
    point: String,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// A line of mountinfo, if it is one of a hierarchy.
    fn parse(line: &'a str) -> Option<Self> {
        let (place, filesystem) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut filesystem = filesystem.split(' ');
        let (kind, _source, options) = (filesystem.next()?, filesystem.next()?, filesystem.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| Self {
            kind,
            root: unescape(root),
            point: unescape(point),
            options,
        })
    }

    /// Where the cgroup with this path is to be found under the mount.
    fn place(&self, own: Option<&str>) -> Place {
        let Some(own) = own else { return Place::NotMounted };
        let below = if self.root == "/" { Some(own) } else { own.strip_prefix(self.root.as_str()) };
        match below {
            Some(below) if (below.is_empty() || below.starts_with('/')) && !below.starts_with("/..") => {
                let (point, below) = (PathBuf::from(&self.point), below.trim_start_matches('/'));
                Place::At(if below.is_empty() { point } else { point.join(below) })
            }
            _ => Place::Hidden { own: own.to_owned() },
        }
    }
}

/// Spaces, tabs, line ends and backslashes are written as a backslash and three octal digits.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                text.push(char::from(byte));
                text.push_str(&part[3..]);
            }
            _ => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const HYBRID: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        36 31 0:33 / /sys/fs/cgroup/memory rw shared:9 master:2 - cgroup cgroup rw,memory\n\
        38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    fn at(path: &str) -> Place {
        Place::At(PathBuf::from(path))
    }

    fn check(own: &str, mountinfo: &str, v1: &[(Controller, Place)], v2: Place) {
        let expected = Layout { v1: v1.iter().cloned().collect(), v2 };
        assert_eq!(parse(own, mountinfo), expected, "{own}");
    }

    /// Version 2 alone, from a service, from the root, and from the leaf of an earlier keeper.
    #[test]
    fn unified() {
        let service = "0::/system.slice/openclaw.service\n";
        check(service, UNIFIED, &[], at("/sys/fs/cgroup/system.slice/openclaw.service"));
        check("0::/\n", UNIFIED, &[], at("/sys/fs/cgroup/"));
        check("0::/a/openclaw-00/keeper\n", UNIFIED, &[], at("/sys/fs/cgroup/a"));
        check("0::/a/openclaw-00/agent-x-1\n", UNIFIED, &[], at("/sys/fs/cgroup/a/openclaw-00/agent-x-1"));
        check("0::/a/other/keeper\n", UNIFIED, &[], at("/sys/fs/cgroup/a/other/keeper"));
    }

    /// Version 1 beside version 2, with two controllers on one mount, and a mount of no controller.
    #[test]
    fn hybrid_and_version_1() {
        use Controller::{Cpu, CpuAccounting, Io, Memory};
        let own = "9:name=systemd:/s\n4:memory:/m/x\n7:blkio:/\n1:cpu,cpuacct:/c\n0::/u\n";
        let v1 = [
            (Cpu, at("/sys/fs/cgroup/cpu,cpuacct/c")),
            (CpuAccounting, at("/sys/fs/cgroup/cpu,cpuacct/c")),
            (Memory, at("/sys/fs/cgroup/memory/m/x")),
            (Io, at("/sys/fs/cgroup/blkio/")),
        ];
        check(own, HYBRID, &v1, at("/sys/fs/cgroup/unified/u"));
        let (version_1, _) = HYBRID.rsplit_once('\n').unwrap();
        check(own, version_1, &v1, Place::NotMounted);
        check("", "", &[], Place::NotMounted);
    }

    /// In a container: part of a hierarchy is mounted; the own cgroup is below it, beside it, or above.
    #[test]
    fn containers() {
        let mount = "50 40 0:33 /docker/f00 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let check = |own: &str, place| check(own, mount, &[(Controller::Memory, place)], Place::NotMounted);
        let hidden = |own: &str| Place::Hidden { own: own.to_owned() };
        check("4:memory:/docker/f00/a\n", at("/sys/fs/cgroup/memory/a"));
        check("4:memory:/docker/f00\n", at("/sys/fs/cgroup/memory/"));
        check("4:memory:/docker/f000\n", hidden("/docker/f000"));
        check("4:memory:/\n", hidden("/"));
        let outside = parse("0::/../x\n", UNIFIED);
        assert_eq!(outside.v2, hidden("/../x"));
    }

    /// The mount that shows the own cgroup counts, in whatever order they come; odd names are read.
    #[test]
    fn several_mounts_and_odd_names() {
        let odd = "50 40 0:33 / /mnt/a\\040b\\134c rw - cgroup2 none rw";
        let part = "51 40 0:33 /other /mnt/part rw - cgroup2 none rw";
        let expected = at("/mnt/a b\\c/x");
        check("0::/x", &format!("{odd}\n{part}"), &[], expected.clone());
        check("0::/x", &format!("{part}\n{odd}"), &[], expected);
        check("0::/x", "garbage\n1 2 - cgroup2\n - \n", &[], Place::NotMounted);
    }
}
