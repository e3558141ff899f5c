//! Users of the host, from `/etc/passwd`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::host_files::{self, LastRead};

const MAX_PASSWD_BYTES: u64 = 4 << 20;

/// The users, as of the last change of the file.
#[derive(Debug)]
pub struct Users {
    file: PathBuf,
    last: LastRead,
    by_uid: HashMap<u32, User>,
}

#[derive(Debug)]
struct User {
    name: String,
    home: String,
}

impl Users {
    /// Reads below `root`, where the file system of the host is mounted.
    pub fn below(root: &Path) -> Self {
        Self { file: root.join("etc/passwd"), last: LastRead::default(), by_uid: HashMap::new() }
    }

    /// The name of a user.
    pub fn name(&mut self, uid: u32) -> Option<&str> {
        self.user(uid).map(|user| user.name.as_str())
    }

    /// The absolute path of a user's home, without `..`.
    pub fn home(&mut self, uid: u32) -> Option<&str> {
        let home = self.user(uid)?.home.as_str();
        let is_plain = home.starts_with('/') && !home.split('/').any(|part| part == "..");
        is_plain.then_some(home)
    }

    fn user(&mut self, uid: u32) -> Option<&User> {
        if self.last.has_changed(&self.file) {
            let passwd = host_files::read(&self.file, MAX_PASSWD_BYTES).unwrap_or_default();
            self.by_uid = String::from_utf8_lossy(&passwd).lines().rev().filter_map(parse).collect();
        }
        self.by_uid.get(&uid)
    }
}

/// Of several users with one uid the first counts, as in `getpwuid()`.
fn parse(line: &str) -> Option<(u32, User)> {
    let mut fields = line.split(':');
    let (name, uid, home) = (fields.next()?, fields.nth(1)?, fields.nth(2)?);
    let uid = uid.parse().ok().filter(|_| !name.is_empty())?;
    Some((uid, User { name: name.into(), home: home.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_and_homes() {
        let lines =
            ["root:x:0:0:root:/root:/bin/sh", "toor:x:0:0::/:", "www:x:33:33::/../x:", "bad", ":x:1:1::/:"];
        let by_uid: HashMap<u32, User> = lines.into_iter().rev().filter_map(parse).collect();
        let file = PathBuf::from("/nonexistent/passwd");
        let mut last = LastRead::default();
        last.has_changed(&file);
        let mut users = Users { file, last, by_uid };
        assert_eq!(users.name(0), Some("root"));
        assert_eq!(users.name(1), None);
        assert_eq!(users.home(0), Some("/root"));
        assert_eq!((users.name(33).map(str::to_owned), users.home(33)), (Some("www".into()), None));
    }
}
