//! A CPU quota for one server, by control groups: version 1 (`cpu.cfs_quota_us`) or 2 (`cpu.max`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// The quota is handed out anew every 10 ms: short, so that the server never pauses for long.
const PERIOD_US: u32 = 10_000;

/// How often and how long to try to remove a group whose last process has just ended.
const REMOVE_TRIES: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A place where this process may make groups with a quota.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    parent: PathBuf,
    version: Version,
}

impl Quota {
    /// Looks for such a place and tries it out.
    ///
    /// # Errors
    /// When there is none: says what was tried and what to do.
    pub(crate) fn find() -> Result<Self, String> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let mounts = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        let places = places(&mounts, &own);
        let mut refusals = Vec::new();
        for place in places {
            match place.group(50).and_then(Group::remove) {
                Ok(()) => return Ok(place),
                Err(error) => refusals.push(format!("{}: {error}", place.parent.display())),
            }
        }
        let tried = if refusals.is_empty() {
            "no control group with a cpu controller is mounted".to_owned()
        } else {
            refusals.join("; ")
        };
        Err(format!(
            "{tried} (needs root, or a control group with a cpu controller delegated to this user)"
        ))
    }

    /// How the system does it, for the report.
    pub(crate) fn describe(&self, percent: u32) -> String {
        let quota = percent * (PERIOD_US / 100);
        match self.version {
            Version::V1 => format!("cpu.cfs_quota_us {quota}, cpu.cfs_period_us {PERIOD_US}"),
            Version::V2 => format!("cpu.max {quota} {PERIOD_US}"),
        }
    }

    /// Makes a group whose processes together get `percent` of one CPU.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn group(&self, percent: u32) -> io::Result<Group> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("proscenium-{}-{number}", std::process::id());
        if self.version == Version::V2 {
            // Has no effect if it is on already; if it cannot be, the next step tells.
            let _ = fs::write(self.parent.join("cgroup.subtree_control"), "+cpu");
        }
        let path = self.parent.join(name);
        fs::create_dir(&path)?;
        let group = Group { path: Some(path) };
        let quota = percent * (PERIOD_US / 100);
        match self.version {
            Version::V1 => {
                group.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                group.write("cpu.cfs_quota_us", &quota.to_string())?;
            }
            Version::V2 => group.write("cpu.max", &format!("{quota} {PERIOD_US}"))?,
        }
        Ok(group)
    }
}

/// A group with a quota; removed at the end, when its processes have ended.
#[derive(Debug)]
pub(crate) struct Group {
    /// None once it is removed.
    path: Option<PathBuf>,
}

impl Group {
    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        // Without creating: on version 2 a missing file says that the controller is off.
        let path = self.path().join(file);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).open(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        io::Write::write_all(&mut file, value.as_bytes())
    }

    /// Puts a process into the group, with the threads it has and will have.
    ///
    /// # Errors
    /// When the system refuses or the process has ended.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// In how many of its periods the group used up its quota, as a share.
    pub(crate) fn throttled_share(&self) -> Option<f64> {
        throttled_share(&fs::read_to_string(self.path().join("cpu.stat")).ok()?)
    }

    /// Removes the group.
    ///
    /// # Errors
    /// When the system refuses, because a process is still in it.
    pub(crate) fn remove(mut self) -> io::Result<()> {
        self.remove_now()
    }

    fn remove_now(&mut self) -> io::Result<()> {
        let Some(path) = self.path.take() else {
            return Ok(());
        };
        let mut result = fs::remove_dir(&path);
        for _ in 0..REMOVE_TRIES {
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::ResourceBusy) {
                break;
            }
            thread::sleep(REMOVE_PAUSE);
            result = fs::remove_dir(&path);
        }
        result
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(path) = self.path.clone()
            && let Err(error) = self.remove_now()
        {
            eprintln!(
                "cannot remove the control group {}: {error}",
                path.display()
            );
        }
    }
}

/// Where groups might be made, the likeliest first: in our own group and those above it, in each
/// hierarchy with a cpu controller.
fn places(mountinfo: &str, own_groups: &str) -> Vec<Quota> {
    let mut places = Vec::new();
    for (version, root, mount) in mountinfo.lines().filter_map(parse_mount) {
        let own = own_group(own_groups, version).unwrap_or("/");
        // What is mounted may be a part of the hierarchy; ours is then relative to that part.
        let below = own.strip_prefix(root.trim_end_matches('/')).unwrap_or("/");
        let inside = mount.join(below.trim_start_matches('/'));
        let upwards = inside.ancestors().take_while(|dir| dir.starts_with(&mount));
        places.extend(upwards.map(|dir| Quota {
            parent: dir.components().collect(),
            version,
        }));
    }
    places
}

/// A line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`): the version, what is mounted and
/// where, if it is a hierarchy that can have a cpu controller.
fn parse_mount(line: &str) -> Option<(Version, &str, PathBuf)> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut system = system.split(' ');
    let version = match system.next()? {
        "cgroup" => {
            let options = system.nth(1)?;
            options
                .split(',')
                .any(|option| option == "cpu")
                .then_some(Version::V1)
        }
        "cgroup2" => Some(Version::V2),
        _ => None,
    }?;
    // Spaces are written in octal.
    Some((version, root, PathBuf::from(point.replace("\\040", " "))))
}

/// Our own group in `/proc/self/cgroup`: lines `ID:CONTROLLERS:PATH`, version 2 has id 0.
fn own_group(text: &str, version: Version) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let found = match version {
            Version::V1 => controllers.split(',').any(|controller| controller == "cpu"),
            Version::V2 => id == "0" && controllers.is_empty(),
        };
        found.then_some(path)
    })
}

/// `nr_throttled` of `nr_periods` in a `cpu.stat` file, the same words in both versions.
fn throttled_share(stat: &str) -> Option<f64> {
    let number = |name: &str| -> Option<f64> {
        let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    let (periods, throttled) = (number("nr_periods ")?, number("nr_throttled ")?);
    (periods > 0.0).then(|| throttled / periods)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents(mountinfo: &str, own: &str) -> Vec<(Version, String)> {
        let place = |place: &Quota| (place.version, place.parent.display().to_string());
        places(mountinfo, own).iter().map(place).collect()
    }

    #[test]
    fn version_1_is_found_by_its_controller() {
        let mounts = "\
            29 28 0:24 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
            30 28 0:25 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";
        let own = "3:cpuset:/x\n2:cpu,cpuacct:/user/me\n";
        assert_eq!(
            parents(mounts, own),
            ["/user/me", "/user", ""]
                .map(|below| (Version::V1, format!("/sys/fs/cgroup/cpu,cpuacct{below}")))
        );
    }

    #[test]
    fn version_2_is_tried_from_our_own_group_upwards() {
        let mounts = "25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            parents(mounts, "0::/user.slice/a.scope\n"),
            ["/user.slice/a.scope", "/user.slice", ""]
                .map(|below| (Version::V2, format!("/sys/fs/cgroup{below}")))
        );
    }

    #[test]
    fn a_container_sees_its_part_of_the_hierarchy_as_the_root() {
        let mounts = "9 1 0:2 /docker/1f /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let expected = [(Version::V1, "/sys/fs/cgroup/cpu".to_owned())];
        assert_eq!(parents(mounts, "4:cpu:/docker/1f\n"), expected);
        assert_eq!(parents(mounts, "4:cpu:/elsewhere\n"), expected);
    }

    #[test]
    fn other_mounts_and_garbage_are_no_place() {
        for text in [
            "",
            "25 1 0:22 / /proc rw - proc proc rw",
            "- cgroup2",
            "x - cgroup",
        ] {
            assert_eq!(parents(text, "0::/\n"), [], "{text}");
        }
    }

    #[test]
    fn the_throttled_share_is_read_in_both_versions() {
        let v1 = "nr_periods 200\nnr_throttled 50\nthrottled_time 12\n";
        assert_eq!(throttled_share(v1), Some(0.25));
        let v2 = "usage_usec 9\nnr_periods 4\nnr_throttled 4\nthrottled_usec 3\n";
        assert_eq!(throttled_share(v2), Some(1.0));
        assert_eq!(throttled_share("nr_periods 0\nnr_throttled 0\n"), None);
        assert_eq!(throttled_share("usage_usec 9\n"), None);
    }

    #[test]
    fn where_quotas_work_a_group_limits_and_goes_away() {
        // Where they do not, the reason is all there is to check.
        let quota = match Quota::find() {
            Ok(quota) => quota,
            Err(reason) => return assert!(reason.contains("root"), "{reason}"),
        };
        let group = quota.group(50).unwrap();
        let path = group.path().to_owned();
        let file = match quota.version {
            Version::V1 => "cpu.cfs_quota_us",
            Version::V2 => "cpu.max",
        };
        let limit = fs::read_to_string(path.join(file)).unwrap();
        assert!(limit.starts_with("5000"), "{limit}");
        drop(group);
        assert!(!path.exists());
    }
}
