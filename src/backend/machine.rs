//! How much memory this machine has for the process: what is free, and what its cgroups allow.
//!
//! Linux tells both in files. Other systems have no such files, and then nothing is known.

use std::fs;
use std::path::{Path, PathBuf};

use super::ALIGNMENT_BYTES_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

/// A cgroup without a limit has a number near 2^63 in version 1.
const LIMIT_BYTES_MAX: u64 = 1 << 62;

/// Returns the lowest of the limits of this process's cgroups and the free memory.
///
/// # Errors
/// [`ErrorKind::Invalid`] where the system tells neither.
pub(super) fn memory_bytes() -> Result<u64> {
    memory_bytes_of(Path::new("/"))
}

/// Returns the bytes of a transparent huge page.
///
/// # Errors
/// [`ErrorKind::Invalid`], with the reason, where there are none that a program may ask for.
pub(super) fn huge_page_bytes() -> Result<u64> {
    huge_page_bytes_of(Path::new("/"))
}

/// Returns what the system says of the limit of this process's locked memory.
pub(super) fn lock_limit() -> String {
    lock_limit_of(Path::new("/")).unwrap_or_else(|| "what this system lets a process lock is not known".to_owned())
}

fn huge_page_bytes_of(root: &Path) -> Result<u64> {
    let read = |file: &str| fs::read_to_string(root.join("sys/kernel/mm/transparent_hugepage").join(file)).ok();
    let reason = match (read("enabled"), read("hpage_pmd_size").and_then(|text| text.trim().parse::<u64>().ok())) {
        (Some(modes), _) if modes.contains("[never]") => "they are switched off on this system".to_owned(),
        (Some(_), Some(bytes)) if bytes > ALIGNMENT_BYTES_MAX || !bytes.is_power_of_two() => {
            format!(
                "those of this system have {}, and slabs start at multiples of {}",
                exact(bytes),
                exact(ALIGNMENT_BYTES_MAX)
            )
        }
        (Some(_), Some(bytes)) => return Ok(bytes),
        _ => "only Linux tells of them, in /sys/kernel/mm/transparent_hugepage".to_owned(),
    };
    Err(Error::new(ErrorKind::Invalid, format!("host memory has no huge pages: {reason}")))
}

fn memory_bytes_of(root: &Path) -> Result<u64> {
    let known = cgroup_bytes(root).into_iter().chain(free_bytes(root));
    known.min().ok_or_else(|| {
        let message =
            "how much memory this machine has is not known: only Linux tells, in /proc/meminfo and in cgroups";
        Error::new(ErrorKind::Invalid, message)
    })
}

/// Returns what a new program gets without swapping, in the kernel's estimate.
fn free_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the lowest limit of the process's cgroup and those above it, in both versions.
fn cgroup_bytes(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let limits = mounts.lines().filter_map(|line| {
        let mount = Mount::of(line)?;
        let inside = mount.inside(mount.version.group(&groups)?);
        let limit = |folder: &Path| {
            let file = root.join(mount.folder).join(folder).join(mount.version.limit_file());
            fs::read_to_string(file).ok()?.trim().parse().ok()
        };
        // Those above are as binding as the group itself. Groups above the mount are not visible.
        inside.ancestors().filter_map(limit).filter(|bytes| *bytes < LIMIT_BYTES_MAX).min()
    });
    limits.min()
}

#[derive(Clone, Copy)]
enum Version {
    V1,
    V2,
}

impl Version {
    /// Returns the process's group, of the lines `id:controllers:path`.
    fn group(self, groups: &str) -> Option<&str> {
        groups.lines().find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_it = match self {
                Self::V1 => has_memory(controllers),
                Self::V2 => id == "0" && controllers.is_empty(),
            };
            is_it.then_some(path)
        })
    }

    fn limit_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }
}

fn has_memory(list: &str) -> bool {
    list.split(',').any(|name| name == "memory")
}

/// A file system of cgroups, which shows the groups below one of them in a folder.
struct Mount<'a> {
    version: Version,
    /// The group that the folder shows.
    top: &'a str,
    /// Below the root.
    folder: &'a str,
}

impl<'a> Mount<'a> {
    /// Reads a line `id parent device top folder options... - type source options`.
    fn of(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (top, folder) = (mount.next()?, mount.next()?.strip_prefix('/')?);
        let mut filesystem = filesystem.split(' ');
        let version = match filesystem.next()? {
            "cgroup2" => Version::V2,
            "cgroup" if has_memory(filesystem.nth(1)?) => Version::V1,
            _ => return None,
        };
        Some(Self { version, top, folder })
    }

    /// Returns the group's folder, below the mount's. A group outside what the mount shows has the mount's own.
    fn inside(&self, group: &str) -> PathBuf {
        let inside = Path::new(group).strip_prefix(self.top).unwrap_or(Path::new(""));
        let is_below = inside.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if is_below { inside.to_owned() } else { PathBuf::new() }
    }
}

fn lock_limit_of(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    let limit = match line.split_whitespace().next()? {
        "unlimited" => "unlimited".to_owned(),
        bytes => exact(bytes.parse().ok()?),
    };
    Some(format!("the limit of this process's locked memory (RLIMIT_MEMLOCK) is {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A root folder with such files, which goes with it.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("tensorpool-machine-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn memory_bytes(&self) -> Result<u64> {
            memory_bytes_of(&self.0)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn huge_pages_are_what_the_system_has_switched_on() {
        const FOLDER: &str = "sys/kernel/mm/transparent_hugepage";
        let pages = |modes, bytes| {
            let files: Vec<(String, &str)> =
                vec![(format!("{FOLDER}/enabled"), modes), (format!("{FOLDER}/hpage_pmd_size"), bytes)];
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            huge_page_bytes_of(&Root::new("huge", &files).0).map_err(|error| error.to_string())
        };
        assert_eq!(pages("always [madvise] never\n", "2097152\n"), Ok(2 * MIB));
        assert_eq!(pages("[always] madvise never\n", "2097152\n"), Ok(2 * MIB));
        assert!(pages("always madvise [never]\n", "2097152\n").unwrap_err().contains("switched off"));
        assert!(pages("[always] madvise never\n", "536870912\n").unwrap_err().contains("512 MiB"));
        let error = huge_page_bytes_of(&Root::new("no-huge", &[]).0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    const MEMORY: (&str, &str) =
        ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 100 kB\nMemAvailable:    4194304 kB\nBuffers: 0 kB\n");
    const V2: (&str, &str) = (
        "proc/self/mountinfo",
        "22 28 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n\
         30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n",
    );
    const V1: (&str, &str) = (
        "proc/self/mountinfo",
        "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
         35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
    );

    fn group(path: &'static str) -> (&'static str, &'static str) {
        ("proc/self/cgroup", path)
    }

    #[test]
    fn without_a_limit_it_is_what_is_free() {
        assert_eq!(Root::new("free", &[MEMORY]).memory_bytes().unwrap(), 4096 * MIB);
        let unlimited = [MEMORY, V2, group("0::/user.slice\n"), ("sys/fs/cgroup/user.slice/memory.max", "max\n")];
        assert_eq!(Root::new("unlimited-2", &unlimited).memory_bytes().unwrap(), 4096 * MIB);
        let unlimited = [
            MEMORY,
            V1,
            group("4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(Root::new("unlimited-1", &unlimited).memory_bytes().unwrap(), 4096 * MIB);
        // That number is no limit, where nothing else is known either.
        assert!(Root::new("unlimited-only", &unlimited[1..]).memory_bytes().is_err());
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_it_counts() {
        let nested = |own, above, top| {
            let files = [
                MEMORY,
                V2,
                group("0::/pods.slice/pod7/box\n"),
                ("sys/fs/cgroup/pods.slice/pod7/box/memory.max", own),
                ("sys/fs/cgroup/pods.slice/pod7/memory.max", above),
                ("sys/fs/cgroup/pods.slice/memory.max", top),
                // Of others.
                ("sys/fs/cgroup/pods.slice/pod8/memory.max", "1"),
            ];
            Root::new("nested", &files).memory_bytes().unwrap()
        };
        assert_eq!(nested("1073741824\n", "max\n", "max\n"), 1024 * MIB);
        assert_eq!(nested("1073741824\n", "536870912\n", "max\n"), 512 * MIB);
        assert_eq!(nested("max\n", "536870912\n", "268435456\n"), 256 * MIB);
        // More than is free.
        assert_eq!(nested("1099511627776\n", "max\n", "max\n"), 4096 * MIB);
    }

    #[test]
    fn version_1_has_a_group_for_each_controller() {
        let files = [
            MEMORY,
            V1,
            group("5:cpu,cpuacct:/quick\n4:memory:/jobs/17\n0::/\n"),
            ("sys/fs/cgroup/memory/jobs/17/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "1610612736\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/quick/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(Root::new("v1", &files).memory_bytes().unwrap(), 1536 * MIB);
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_top() {
        // Its mount shows the group, which the path still names in whole.
        let mount = "35 31 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        for (name, path) in
            [("whole", "4:memory:/docker/ab\n"), ("below", "4:memory:/docker/ab/../..\n"), ("other", "4:memory:/x\n")]
        {
            let files = [
                MEMORY,
                ("proc/self/mountinfo", mount),
                group(path),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n"),
            ];
            assert_eq!(Root::new(name, &files).memory_bytes().unwrap(), MIB, "{path}");
        }
    }

    #[test]
    fn both_versions_may_be_mounted() {
        let mounts = [V1.1, "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"].concat();
        let files = [
            MEMORY,
            ("proc/self/mountinfo", &*mounts),
            group("4:memory:/a\n0::/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3145728\n"),
            ("sys/fs/cgroup/unified/a/cgroup.procs", ""),
        ];
        assert_eq!(Root::new("hybrid", &files).memory_bytes().unwrap(), 3 * MIB);
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let error = Root::new("nothing", &[]).memory_bytes().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("how much memory this machine has is not known"), "{error}");
        for broken in ["", "MemAvailable: many kB\n", "MemAvailable: 18446744073709551615 kB\n", "MemAvailable: 5\n"] {
            let files =
                [("proc/meminfo", broken), group("::::\n0\n\n"), ("proc/self/mountinfo", " - \n1 2 3 - cgroup2\n")];
            assert!(Root::new("broken", &files).memory_bytes().is_err(), "{broken:?}");
        }
        #[cfg(target_os = "linux")]
        assert!(memory_bytes().unwrap() > MIB);
    }

    #[test]
    fn a_limit_of_locked_memory_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max locked memory         65536                131072               bytes\n";
        let root = Root::new("limits", &[("proc/self/limits", limits)]);
        assert!(lock_limit_of(&root.0).unwrap().ends_with(" (RLIMIT_MEMLOCK) is 65,536 bytes (64 KiB)"));
        let unlimited = Root::new("no-limits", &[("proc/self/limits", &limits.replace("65536 ", "unlimited "))]);
        assert!(lock_limit_of(&unlimited.0).unwrap().ends_with(" is unlimited"));
        assert_eq!(lock_limit_of(&root.0.join("nowhere")), None);
    }
}
