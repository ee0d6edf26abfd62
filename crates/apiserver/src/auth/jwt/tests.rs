//! Tokens of an issuer in this process, against configurations as text.

use super::*;
use crate::reader::Reader;
use base::clock::ManualClock;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use expect_test::{Expect, expect};
use http_body_util::Full;
use hyper::service::service_fn;
use parking_lot::Mutex;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Signs tokens and publishes its key.
struct TestIssuer {
    url: String,
    ca_pem: String,
    key: EcdsaKeyPair,
    /// The JWK set as it is now.
    published: Arc<Mutex<Value>>,
    /// What it answers who asks for claims with the token `t`.
    claims: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
}

fn new_key() -> EcdsaKeyPair {
    let random = ring::rand::SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key")
}

/// A set with this key and one that nobody can use.
fn set_of(kid: &str, key: &EcdsaKeyPair) -> Value {
    let point = key.public_key().as_ref();
    json!({"keys": [
        {"kty": "oct", "kid": "other"},
        {"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig",
         "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..])},
    ]})
}

impl TestIssuer {
    async fn start() -> Self {
        let key = new_key();
        let published = Arc::new(Mutex::new(set_of("one", &key)));
        let jwks = published.clone();
        let claims = Arc::new(Mutex::new(String::new()));
        let of_claims = claims.clone();
        let certificate = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("a certificate");
        let tls_key =
            rustls_pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).expect("a key");
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], tls_key)
            .expect("a certificate");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        base::tasks::detach("issuer", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, jwks, document, counted) =
                    (acceptor.clone(), jwks.clone(), document.clone(), counted.clone());
                let of_claims = of_claims.clone();
                base::tasks::detach("issuer-connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let body = match request.uri().path_and_query().map_or("", |asked| asked.as_str()) {
                            "/.well-known/openid-configuration" => document.to_string(),
                            "/claims?of=jane" if request.headers()["authorization"] == "Bearer t" => {
                                of_claims.lock().clone()
                            }
                            _ => jwks.lock().to_string(),
                        };
                        async move {
                            Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(bytes::Bytes::from(body))))
                        }
                    });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await.ok();
                });
            }
        });
        TestIssuer { url, ca_pem: certificate.cert.pem(), key, published, claims, requests }
    }

    /// From now on, another key under this name.
    fn rotate(&mut self, kid: &str) {
        self.key = new_key();
        *self.published.lock() = set_of(kid, &self.key);
    }

    /// Its entry in a configuration.
    fn entry(&self, rest: &str) -> String {
        let ca: String = self.ca_pem.lines().map(|line| format!("      {line}\n")).collect();
        format!("- issuer:\n    url: {}\n    audiences: [us]\n    certificateAuthority: |\n{ca}{rest}", self.url)
    }

    /// A token with these claims beside `iss`, `aud` and `exp`.
    fn token(&self, kid: &str, claims: Value) -> String {
        let mut all = json!({"iss": self.url, "aud": "us", "exp": 1_767_225_700});
        all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
        let header = B64.encode(json!({"alg": "ES256", "kid": kid}).to_string());
        let signed = format!("{header}.{}", B64.encode(all.to_string()));
        let signature = self.key.sign(&ring::rand::SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", B64.encode(signature))
    }

    /// With `URL` and `CA` filled in.
    fn configure(&self, rest: &str) -> Result<Arc<JwtTokens>, String> {
        configured(&[self.entry(rest)])
    }
}

fn configured(entries: &[String]) -> Result<Arc<JwtTokens>, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n{}",
        entries.concat()
    );
    let store: Arc<dyn store::Store> = Arc::new(store::MemoryStore::new(store::Limits::default()));
    let clock = ManualClock::new("2026-01-01T00:00:00Z".parse().expect("a time"));
    let tokens = JwtTokens::new(WebhookClient::new(Reader::new(store)), clock, "https://own");
    tokens.configure(&Configuration::parse(&text)?, &[])?;
    Ok(tokens)
}

async fn show(tokens: &JwtTokens, token: &str) -> String {
    match tokens.check(token).await {
        Ok(Some((user, _))) => format!("{} {:?} {:?} {:?}\n", user.name, user.uid, user.groups, user.extra),
        Ok(None) => "nobody\n".into(),
        Err(error) => format!("{error}\n"),
    }
}

#[tokio::test]
async fn claims_make_a_user() {
    let issuer = TestIssuer::start().await;
    let tokens = issuer.configure(
        "  claimMappings: {username: {claim: sub, prefix: 'oidc:'}, groups: {claim: roles, prefix: 'r:'}}\n",
    );
    let tokens = tokens.expect("a configuration");
    let mut out = String::new();
    for claims in [
        json!({"sub": "jane", "roles": ["a", "b"], "jti": "7"}),
        json!({"sub": "jane", "roles": "a"}),
        json!({"roles": "a"}),
        json!({"sub": "jane", "aud": ["them"]}),
        json!({"sub": "jane", "exp": 1_767_225_500}),
        json!({"sub": "jane", "iss": "https://elsewhere"}),
    ] {
        out += &show(&tokens, &issuer.token("one", claims)).await;
    }
    out += &show(&tokens, "no token").await;
    expect![[r#"
        oidc:jane "" ["r:a", "r:b"] {"authentication.kubernetes.io/credential-id": ["JTI=7"]}
        oidc:jane "" ["r:a"] {}
        oidc: parse username claims "sub": claim not present
        oidc: verify token: oidc: expected audience in ["us"] got ["them"]
        oidc: verify token: oidc: token is expired (Token Expiry: 1767225500)
        nobody
        nobody
    "#]]
    .assert_eq(&out);
    assert_eq!(issuer.requests.load(Ordering::Relaxed), 2, "the document and the keys, once");
}

#[tokio::test]
async fn a_forged_token_is_refused_and_asks_the_issuer_no_more_than_once() {
    let issuer = TestIssuer::start().await;
    let tokens = issuer.configure("  claimMappings: {username: {claim: sub, prefix: ''}}\n").expect("a configuration");
    let forger = TestIssuer { key: TestIssuer::start().await.key, ..issuer };
    let mut out = String::new();
    for _ in 0..3 {
        out += &show(&tokens, &forger.token("one", json!({"sub": "root"}))).await;
    }
    let refusal = "oidc: verify token: failed to verify signature: failed to verify id token signature\n";
    assert_eq!(out, refusal.repeat(3));
    assert_eq!(forger.requests.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_new_key_of_an_issuer_is_fetched_when_its_first_token_comes() {
    let mut issuer = TestIssuer::start().await;
    let tokens = issuer.configure("  claimMappings: {username: {claim: sub, prefix: ''}}\n").expect("a configuration");
    let old = issuer.token("one", json!({"sub": "jane"}));
    assert_eq!(show(&tokens, &old).await, "jane \"\" [] {}\n");
    issuer.rotate("two");
    let new = issuer.token("two", json!({"sub": "jane"}));
    let refused = "oidc: verify token: failed to verify signature: failed to verify id token signature\n";
    assert_eq!(show(&tokens, &new).await, refused, "it was asked just now");
    tokio::time::pause();
    tokio::time::advance(PAUSE).await;
    tokio::time::resume();
    assert_eq!(show(&tokens, &new).await, "jane \"\" [] {}\n");
    assert_eq!(show(&tokens, &old).await, refused, "its key is published no more");
    let unknown = issuer.token("three", json!({"sub": "jane"}));
    assert_eq!(show(&tokens, &unknown).await, refused);
    assert_eq!(issuer.requests.load(Ordering::Relaxed), 3, "the document once, the keys twice");
}

#[tokio::test]
async fn each_issuer_speaks_for_itself_alone() {
    let (a, b) = (TestIssuer::start().await, TestIssuer::start().await);
    let mapping = |prefix: &str| format!("  claimMappings: {{username: {{claim: sub, prefix: '{prefix}'}}}}\n");
    let tokens = configured(&[a.entry(&mapping("a:")), b.entry(&mapping("b:"))]).expect("a configuration");
    let mut out = String::new();
    for token in [
        a.token("one", json!({"sub": "jane"})),
        b.token("one", json!({"sub": "jane"})),
        // Signed by one in the name of the other.
        a.token("one", json!({"sub": "jane", "iss": b.url})),
        // Not yet, but for clocks that differ; and not yet at all.
        a.token("one", json!({"sub": "jane", "nbf": 1_767_225_600 + 200})),
        a.token("one", json!({"sub": "jane", "nbf": 1_767_225_600 + 400})),
    ] {
        out += &show(&tokens, &token).await;
    }
    expect![[r#"
        a:jane "" [] {}
        b:jane "" [] {}
        oidc: verify token: failed to verify signature: failed to verify id token signature
        a:jane "" [] {}
        oidc: verify token: oidc: current time 1767225600 before the nbf (not before) time: 1767226000
    "#]]
    .assert_eq(&out);
    // What is counted of them; one that is no issuer any more is forgotten.
    let samples = |tokens: &JwtTokens| {
        let families = tokens.metrics().collectors().into_iter().flat_map(|c| c.collect()).collect::<Vec<_>>();
        let of_labels = |m: &prometheus::proto::Metric| {
            let issuer =
                m.get_label().iter().find(|l| l.name() == "jwt_issuer_hash").expect("a label").value().to_owned();
            let result = m.get_label().iter().find(|l| l.name() == "result").expect("a label").value().to_owned();
            let name = if issuer == metrics::hash(&a.url) { "a" } else { "b" };
            format!("{name} {result} {}", m.get_histogram().get_sample_count())
        };
        let mut all: Vec<String> = families[0].get_metric().iter().map(of_labels).collect();
        all.sort();
        all
    };
    assert_eq!(samples(&tokens), ["a failure 1", "a success 2", "b failure 1", "b success 1"]);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n{}",
        b.entry(&mapping("b:"))
    );
    tokens.configure(&Configuration::parse(&text).expect("a file"), &[]).expect("a configuration");
    assert_eq!(samples(&tokens).len(), 2);
    assert_eq!(show(&tokens, &a.token("one", json!({"sub": "jane"}))).await, "nobody\n");
}

/// An issuer whose tokens leave groups to another one.
struct Distributed {
    issuer: TestIssuer,
    groups: TestIssuer,
    tokens: Arc<JwtTokens>,
    /// What such a token claims.
    claims: Value,
}

async fn distributed() -> Distributed {
    let (mut issuer, groups) = (TestIssuer::start().await, TestIssuer::start().await);
    issuer.ca_pem += &groups.ca_pem;
    let mapping = "  claimMappings: {username: {claim: sub, prefix: ''}, groups: {claim: roles, prefix: 'r:'}}\n";
    let tokens = issuer.configure(mapping).expect("a configuration");
    let source = json!({"endpoint": format!("{}/claims?of=jane", groups.url), "access_token": "t"});
    let claims = json!({"sub": "jane", "_claim_names": {"roles": "s"}, "_claim_sources": {"s": source}});
    Distributed { issuer, groups, tokens, claims }
}

#[tokio::test]
async fn groups_are_fetched_from_where_a_token_says() {
    let Distributed { issuer, groups, tokens, claims } = distributed().await;
    let mut out = String::new();
    for published in [
        groups.token("one", json!({"roles": ["a", "b"]})),
        groups.token("one", json!({})),
        groups.token("one", json!({"roles": ["a"], "aud": "them"})),
        // Signed by the first issuer in the name of the second.
        issuer.token("one", json!({"roles": ["root"], "iss": groups.url})),
        "no token".to_owned(),
    ] {
        *groups.claims.lock() = published;
        out += &show(&tokens, &issuer.token("one", claims.clone())).await;
    }
    let plain = json!({"s": {"endpoint": groups.url.replace("https", "http")}});
    let plain = json!({"sub": "jane", "_claim_names": {"roles": "s"}, "_claim_sources": plain});
    out += &show(&tokens, &issuer.token("one", plain)).await.replace("http:", "https:");
    let own = json!({"sub": "jane", "roles": "own", "_claim_names": {"roles": "s"}});
    out += &show(&tokens, &issuer.token("one", own)).await;
    expect![[r#"
        jane "" ["r:a", "r:b"] {}
        oidc: could not expand distributed claims: jwt returned by distributed claim endpoint "URL/claims?of=jane" did not contain claim: roles
        oidc: could not expand distributed claims: verify distributed claim token: oidc: expected audience in ["us"] got ["them"]
        oidc: could not expand distributed claims: verify distributed claim token: failed to verify signature: failed to verify id token signature
        oidc: could not expand distributed claims: getting untrusted issuer from endpoint URL/claims?of=jane failed for claim "roles": malformed token
        oidc: could not expand distributed claims: "URL" must use https
        jane "" ["r:own"] {}
    "#]]
    .assert_eq(&out.replace(&groups.url, "URL"));
}

#[tokio::test(start_paused = true)]
async fn whose_a_token_is_is_known_for_ten_seconds() {
    let Distributed { issuer, groups, tokens, claims } = distributed().await;
    let token = issuer.token("one", claims);
    *groups.claims.lock() = groups.token("one", json!({"roles": ["a"]}));
    let first = show(&tokens, &token).await;
    *groups.claims.lock() = groups.token("one", json!({"roles": ["b"]}));
    let asked = groups.requests.load(Ordering::Relaxed);
    assert_eq!(show(&tokens, &token).await, first);
    assert_eq!(groups.requests.load(Ordering::Relaxed), asked);
    tokio::time::advance(KNOWN).await;
    assert_eq!(show(&tokens, &token).await, first.replace("r:a", "r:b"));
}

#[tokio::test]
async fn expressions_map_and_judge() {
    let issuer = TestIssuer::start().await;
    let tokens = issuer
        .configure(
            "  claimMappings:
    username: {expression: 'claims.first + \".\" + claims.last'}
    groups: {expression: 'claims.roles.split(\",\")'}
    uid: {claim: sub}
    extra: [{key: example.com/tenant, valueExpression: claims.tenant}]
  claimValidationRules:
  - {claim: hd, requiredValue: example.com}
  - {expression: 'claims.level > 2', message: the level is too low}
  userValidationRules:
  - {expression: \"!user.username.startsWith('system:')\", message: reserved}
",
        )
        .expect("a configuration");
    let mut out = String::new();
    let good = json!({"first": "jane", "last": "doe", "sub": "42", "roles": "a,b", "tenant": "t", "hd": "example.com", "level": 3});
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        claims
    };
    for claims in [
        good.clone(),
        with("level", json!(2)),
        with("hd", json!("evil.com")),
        with("first", json!("system:x")),
        with("roles", json!(7)),
    ] {
        out += &show(&tokens, &issuer.token("one", claims)).await;
    }
    expect![[r#"
        jane.doe "42" ["a", "b"] {"example.com/tenant": ["t"]}
        oidc: error evaluating claim validation expression: validation expression 'claims.level > 2' failed: the level is too low
        oidc: required claim hd value does not match. Got = evil.com, want = example.com
        oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('system:')' failed: reserved
        oidc: error evaluating group claim expression: expression 'claims.roles.split(",")' resulted in error: no such overload
    "#]].assert_eq(&out);
}

fn check_mistakes(rest: &str, expected: Expect) {
    let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{rest}");
    let error = Configuration::parse(&text).and_then(|c| c.compile("https://own").map(drop)).expect_err("is wrong");
    expected.assert_eq(&error);
}

#[test]
fn mistakes_are_told_in_upstreams_words() {
    check_mistakes(
        "jwt: [{issuer: {url: 'http://a?b', audiences: [x, x]}, claimMappings: {username: {claim: sub}}}]",
        expect![[
            r#"[jwt[0].issuer.url: Invalid value: "http://a?b": URL scheme must be https, jwt[0].issuer.url: Invalid value: "http://a?b": URL must not contain a query, jwt[0].issuer.audiences[1]: Duplicate value: "x", jwt[0].issuer.audienceMatchPolicy: Invalid value: "": audienceMatchPolicy must be MatchAny for multiple audiences, jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing]"#
        ]],
    );
    check_mistakes(
        "jwt: [{issuer: {url: 'https://own', audiences: [x]}, claimMappings: {username: {expression: claims.email}}}]",
        expect![[
            r#"[jwt[0].issuer.url: Invalid value: "https://own": URL must not overlap with disallowed issuers: [https://own], jwt[0].claimMappings.username.expression: Invalid value: "claims.email": claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression]"#
        ]],
    );
    check_mistakes(
        "anonymous: {enabled: false, conditions: [{path: /livez}]}",
        expect![[
            r#"anonymous.conditions: Invalid value: ["/livez"]: enabled should be set to true when conditions are defined"#
        ]],
    );
}
