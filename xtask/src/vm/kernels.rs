//! The kernels to boot: in, a row of the table below; out, its image and modules below `target/vm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::archive::Archive;
use crate::command;
use crate::repo::Repo;

/// A kernel of one Debian release.
pub struct DebianKernel {
    /// Its name on the command line, and the version of its packages.
    pub version: &'static str,
    /// The Debian release that has it.
    pub suite: &'static str,
    /// The part of its packages' names before the version.
    packages: &'static [&'static str],
    /// Its flavour on arm64.
    arm64_flavour: &'static str,
}

/// The smallest kernels.
const CLOUD_AMD64: &str = "cloud-amd64";
const CLOUD_ARM64: &str = "cloud-arm64";

/// Oldest first.
pub const KERNELS: [DebianKernel; 4] = [
    DebianKernel {
        version: "5.10",
        suite: "bullseye",
        packages: &["linux-image"],
        arm64_flavour: CLOUD_ARM64,
    },
    DebianKernel {
        version: "6.1",
        suite: "bookworm",
        packages: &["linux-image"],
        arm64_flavour: CLOUD_ARM64,
    },
    DebianKernel { version: "6.12", suite: "trixie", packages: &["linux-image"], arm64_flavour: CLOUD_ARM64 },
    DebianKernel {
        version: "7.2",
        suite: "sid",
        packages: &["linux-binary-unsigned", "linux-modules"],
        // Pages of 16 KiB; Debian has no cloud kernel with them.
        arm64_flavour: "arm64-16k",
    },
];

/// Modules that the tests need, in the order of loading: `sock_diag` for TCP.
pub const MODULES: [&str; 2] = ["inet_diag", "tcp_diag"];

impl DebianKernel {
    /// The row called `version`.
    pub fn named(version: &str) -> Option<&'static Self> {
        KERNELS.iter().find(|kernel| kernel.version == version)
    }

    /// The end of its packages' names, and of its release.
    pub fn flavour(&self, arch: Arch) -> &'static str {
        match arch {
            Arch::Amd64 => CLOUD_AMD64,
            Arch::Arm64 => self.arm64_flavour,
        }
    }

    /// Its files for `arch`, downloaded if missing.
    pub fn fetch(&self, repo: &Repo, arch: Arch) -> Result<KernelFiles> {
        let flavour = self.flavour(arch);
        let folder = repo.vm().join(format!("kernel-{}-{flavour}", self.version));
        if let Ok(files) = KernelFiles::in_folder(&folder) {
            return Ok(files);
        }
        let archive = Archive::of_suites(repo, arch, self.suite)?;
        let names = archive.package_names()?;
        let packages = self.packages.iter().map(|begin| {
            let newest = newest(&names, begin, self.version, flavour);
            newest.with_context(|| {
                format!(
                    "Debian {} has no package {begin}-{}.* for {flavour} (any more)",
                    self.suite, self.version
                )
            })
        });
        let unpacked = repo.vm().join(format!("unpack-{}-{flavour}", self.version));
        archive.unpack(&packages.collect::<Result<Vec<_>>>()?, &unpacked)?;
        fs::create_dir_all(&folder)?;
        fs::rename(find(&unpacked, "vmlinuz")?, folder.join(IMAGE))?;
        for module in MODULES {
            let found = find(&unpacked, &format!("{module}.ko"))?;
            let to = folder.join(format!("{module}.ko"));
            if found.extension().is_some_and(|extension| extension == "xz") {
                decompress("xz", &found, &to)?;
            } else {
                fs::rename(&found, &to)?;
            }
        }
        fs::remove_dir_all(&unpacked)?;
        KernelFiles::in_folder(&folder)
    }
}

const IMAGE: &str = "vmlinuz";

/// The files of one kernel.
pub struct KernelFiles {
    pub image: PathBuf,
    /// In the order of [`MODULES`].
    pub modules: Vec<PathBuf>,
}

impl KernelFiles {
    fn in_folder(folder: &Path) -> Result<Self> {
        let files = Self {
            image: folder.join(IMAGE),
            modules: MODULES.iter().map(|module| folder.join(format!("{module}.ko"))).collect(),
        };
        for file in files.modules.iter().chain([&files.image]) {
            ensure!(file.is_file(), "{} is missing", file.display());
        }
        Ok(files)
    }
}

/// The newest package in `names` that begins with `begin` and `version`, for `flavour`, without debug symbols.
fn newest<'a>(names: &'a [String], begin: &str, version: &str, flavour: &str) -> Option<&'a str> {
    let start = format!("{begin}-{version}.");
    let is_kernel = |name: &str| name.trim_end_matches("-unsigned").ends_with(&format!("-{flavour}"));
    let fitting = names.iter().filter(|name| name.starts_with(&start) && is_kernel(name));
    fitting.max_by_key(|name| numbers(name)).map(String::as_str)
}

/// The numbers in `text`, which order versions of one pattern.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The file below `folder` whose name begins with `name`.
fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let found = command::output(Command::new("find").arg(folder).args(["-name", &format!("{name}*")]))?;
    let first = found.lines().next().with_context(|| format!("no file {name}* in the package"))?;
    Ok(PathBuf::from(first))
}

/// Writes the output of `program -dc`, a decompressor.
pub fn decompress(program: &str, from: &Path, to: &Path) -> Result<()> {
    let open = fs::File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let create = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    command::run(Command::new(program).arg("-dc").stdin(open).stdout(create))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_the_version_wins() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-50-cloud-amd64-unsigned",
            "linux-image-6.1.0-51-cloud-amd64-dbg",
            "linux-image-6.12.1-cloud-amd64-unsigned",
            "linux-binary-unsigned-7.2.9+deb14-cloud-amd64",
            "linux-binary-unsigned-7.2.13+deb14-cloud-amd64",
            "linux-binary-unsigned-7.2.13+deb14-amd64",
            "linux-binary-unsigned-7.2.13+deb14-arm64-16k",
        ]
        .map(str::to_owned);
        let cases = [
            ("linux-image", "6.1", CLOUD_AMD64, Some("linux-image-6.1.0-50-cloud-amd64-unsigned")),
            (
                "linux-binary-unsigned",
                "7.2",
                CLOUD_AMD64,
                Some("linux-binary-unsigned-7.2.13+deb14-cloud-amd64"),
            ),
            (
                "linux-binary-unsigned",
                "7.2",
                "arm64-16k",
                Some("linux-binary-unsigned-7.2.13+deb14-arm64-16k"),
            ),
            ("linux-binary-unsigned", "7.2", CLOUD_ARM64, None),
            ("linux-image", "7.2", CLOUD_AMD64, None),
        ];
        for (begin, version, flavour, expected) in cases {
            assert_eq!(newest(&names, begin, version, flavour), expected, "{begin}-{version}-{flavour}");
        }
    }
}
