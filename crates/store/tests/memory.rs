//! The memory backend passes the suite.

use store::MemoryStore;

store::conformance_suite!(|limits| async move { Box::new(MemoryStore::new(limits)) });
