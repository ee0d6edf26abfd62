use super::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::Path;
use tokio::sync::oneshot;

/// Lines as the supervisor writes them: `second stream tag text`.
fn cri(script: &str) -> String {
    let lines = script.lines().map(str::trim).filter(|l| !l.is_empty());
    lines
        .map(|line| {
            let (second, rest) = line.split_once(' ').expect("second and rest");
            format!("2026-01-02T03:04:{second}.000000000Z {rest}\n")
        })
        .collect()
}

struct Log {
    dir: tempfile::TempDir,
}

impl Log {
    fn new(newest: &str) -> Self {
        let log = Log { dir: tempfile::tempdir().expect("directory") };
        log.append(&cri(newest));
        log
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("0.log")
    }

    fn append(&self, text: &str) {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.path());
        file.and_then(|mut f| f.write_all(text.as_bytes())).expect("log");
    }

    fn rotate(&self, number: u32) {
        std::fs::rename(self.path(), format!("{}.20260102-030405.{number:09}", self.path().display())).expect("rename");
    }

    async fn open(&self, query: &str, ended: BoxFuture<'static, ()>) -> Body {
        let query: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let options = LogOptions::parse(&query, "2026-01-02T03:05:00Z".parse().expect("time")).expect("options");
        let source = LogSource { path: self.path(), ended };
        body(source, options, CancellationToken::new()).await.expect("log opens")
    }

    async fn read(&self, query: &str) -> String {
        text(self.open(query, std::future::ready(()).boxed()).await).await
    }
}

async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.expect("body").to_bytes().to_vec()).expect("UTF-8")
}

async fn check_log(log: &str, query: &str, expected: &str) {
    assert_eq!(Log::new(log).read(query).await, expected, "{query}");
}

const FIVE: &str = "
    01 stdout F one
    02 stderr F two
    03 stdout P thr
    03 stdout F ee
    04 stdout F four
";

#[tokio::test]
async fn all_of_it() {
    check_log(FIVE, "", "one\ntwo\nthree\nfour\n").await;
    check_log("", "", "").await;
}

#[tokio::test]
async fn the_tail_counts_entries_as_upstream() {
    check_log(FIVE, "tailLines=2", "ee\nfour\n").await;
    check_log(FIVE, "tailLines=3", "three\nfour\n").await;
    check_log(FIVE, "tailLines=0", "").await;
    check_log(FIVE, "tailLines=100", "one\ntwo\nthree\nfour\n").await;
}

#[tokio::test]
async fn a_tail_of_many_blocks() {
    let many: String = (0..20_000).map(|i| format!("01 stdout F line {i}\n")).collect();
    let expected: String = (15_000..20_000).map(|i| format!("line {i}\n")).collect();
    check_log(&many, "tailLines=5000", &expected).await;
}

#[tokio::test]
async fn since_a_time() {
    check_log(FIVE, "sinceTime=2026-01-02T03:04:03Z", "three\nfour\n").await;
    check_log(FIVE, "sinceSeconds=56", "four\n").await;
    check_log(FIVE, "sinceTime=2027-01-01T00:00:00Z", "").await;
}

#[tokio::test]
async fn timestamps_begin_lines_not_parts() {
    let log = "
        01 stdout F one
        03 stdout P tw
        03 stdout F o
    ";
    let expected = "2026-01-02T03:04:01.000000000Z one\n2026-01-02T03:04:03.000000000Z two\n";
    check_log(log, "timestamps=true", expected).await;
}

#[tokio::test]
async fn one_stream() {
    check_log(FIVE, "stream=Stderr", "two\n").await;
    check_log(FIVE, "stream=Stdout", "one\nthree\nfour\n").await;
}

#[tokio::test]
async fn limited_bytes() {
    check_log(FIVE, "limitBytes=6", "one\ntw").await;
    check_log(FIVE, "limitBytes=4", "one\n").await;
    check_log(FIVE, "limitBytes=3&timestamps=true", "202").await;
}

#[tokio::test]
async fn what_is_no_entry_is_passed_over() {
    let log = Log::new("01 stdout F one");
    log.append("garbage\n\n2026 stdout F x\n");
    log.append(&cri("02 stdout F two"));
    log.append("2026-01-02T03:04:05Z stdout F cut");
    assert_eq!(log.read("").await, "one\ntwo\ncut");
    assert_eq!(log.read("tailLines=1&timestamps=true").await, "2026-01-02T03:04:05.000000000Z cut");
}

#[tokio::test]
async fn rotated_files_belong_to_the_log() {
    let log = Log::new("01 stdout F one\n02 stdout F two");
    log.rotate(1);
    log.append(&cri("03 stdout F three"));
    log.rotate(2);
    log.append(&cri("04 stdout F four\n05 stdout F five"));
    assert_eq!(log.read("").await, "one\ntwo\nthree\nfour\nfive\n");
    assert_eq!(log.read("tailLines=2").await, "four\nfive\n");
    assert_eq!(log.read("tailLines=4").await, "two\nthree\nfour\nfive\n");
}

#[tokio::test]
async fn a_missing_log_is_an_error() {
    let dir = tempfile::tempdir().expect("directory");
    let source = LogSource { path: dir.path().join("0.log"), ended: std::future::ready(()).boxed() };
    let options = LogOptions::parse(&[], jiff::Timestamp::UNIX_EPOCH).expect("options");
    let error = body(source, options, CancellationToken::new()).await.map(drop).expect_err("no file");
    assert!(base::chain(&error).contains("failed to open log file"), "{error}");
    assert!(Path::exists(dir.path()));
}

struct Followed {
    body: Body,
    seen: String,
}

impl Followed {
    async fn until(&mut self, expected: &str) {
        while self.seen != expected {
            let frame = self.body.frame().await.expect("the log goes on").expect("no error");
            self.seen.push_str(std::str::from_utf8(&frame.into_data().expect("data")).expect("UTF-8"));
            assert!(expected.starts_with(&self.seen), "{:?} is no beginning of {expected:?}", self.seen);
        }
    }
}

#[tokio::test]
async fn following_sees_writes_and_rotations_until_the_end() {
    let log = Log::new("01 stdout F one");
    let (end, ended) = oneshot::channel::<()>();
    let body = log.open("follow=true&tailLines=1", ended.map(drop).boxed()).await;
    let mut followed = Followed { body, seen: String::new() };
    followed.until("one\n").await;
    log.append(&cri("02 stdout F two"));
    followed.until("one\ntwo\n").await;
    // Half a line waits for its other half.
    let line = cri("03 stdout F three");
    log.append(&line[..40]);
    log.append(&line[40..]);
    followed.until("one\ntwo\nthree\n").await;
    // Two rotations at once; the last words before the first of them count.
    log.append(&cri("04 stdout F four"));
    log.rotate(1);
    log.append(&cri("05 stdout F five"));
    log.rotate(2);
    log.append(&cri("06 stdout F six"));
    followed.until("one\ntwo\nthree\nfour\nfive\nsix\n").await;
    log.append(&cri("07 stdout F seven"));
    end.send(()).expect("followed");
    followed.until("one\ntwo\nthree\nfour\nfive\nsix\nseven\n").await;
    assert!(followed.body.frame().await.is_none(), "ends with the container");
}

#[tokio::test]
async fn following_ends_with_the_client() {
    let log = Log::new("01 stdout F one");
    struct Told(Option<oneshot::Sender<()>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.take().map(|s| s.send(()));
        }
    }
    let (sender, gone) = oneshot::channel();
    let told = Told(Some(sender));
    let never = async move {
        let _told = told;
        std::future::pending::<()>().await;
    };
    let body = log.open("follow=true", never.boxed()).await;
    drop(body);
    gone.await.expect("the reader lets go of its source");
}
