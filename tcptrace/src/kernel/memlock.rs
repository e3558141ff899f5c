//! The limit of locked memory, against which kernels before 5.11 count the memory of programs and maps. With
//! `CAP_SYS_RESOURCE`, `aya` raises it.

use std::{error::Error, io, iter};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::object::LoadError;

/// Raises the limit as far as every user may.
pub fn raise_soft_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    if let Err(errno) = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum }) {
        log::debug!("the limit of locked memory can't be raised: {}", io::Error::from(errno));
    }
}

/// Names the limit if it may be the cause of `error`.
pub fn explain(error: LoadError) -> LoadError {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) if is_refusal(&error) => {
            LoadError::Memlock { limit_kib: bytes / 1024, source: Box::new(error) }
        }
        _ => error,
    }
}

/// Whether the kernel refused with `EPERM`, as it does beyond the limit.
fn is_refusal(error: &LoadError) -> bool {
    let first: &(dyn Error + 'static) = match error {
        LoadError::Handlers(cause) => cause.as_ref(),
        error => error,
    };
    iter::successors(Some(first), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
        .any(|errno| errno == libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_may_be_the_limit() {
        let failed = |errno| LoadError::Rings(io::Error::from_raw_os_error(errno));
        let learning = |errno| {
            let cause = anyhow::Error::from(io::Error::from_raw_os_error(errno));
            LoadError::Handlers(cause.context("no loopback connection"))
        };
        assert!(is_refusal(&learning(libc::EPERM)));
        assert!(!is_refusal(&learning(libc::ENOENT)) && !is_refusal(&failed(libc::EINVAL)));
        assert!(!is_refusal(&LoadError::Part("ring")));
    }
}
