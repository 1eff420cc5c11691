//! Images made and moved: layouts, archives, and a registry whose connections break.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use torpor_archive::Checkpoint;
use torpor_archive::layout::{Description, Plan};
use torpor_archive::oci::{
    ArchiveDepot, BELOW, CHECKPOINT, Depot, Digest, Layout, OciError, Origin, Recipe, build, copy,
};
use torpor_archive::packing::Packing;
use torpor_archive::registry::{Access, Remote};
use torpor_archive::source::{Limits, Place, open, open_archive, open_bytes};

use crate::tape::Tape;

fn checkpoint(memory: &[u8]) -> Checkpoint {
    let archive = Tape::new()
        .directory("checkpoint/")
        .file("checkpoint/inventory.img", b"inventory")
        .file("checkpoint/pages-1.img", memory)
        .file("config.dump", br#"{"name": "web"}"#)
        .end();
    let source = open_bytes("it.tar".to_owned(), Arc::new(archive), &Limits::default(), None);
    Checkpoint::new(source.unwrap()).unwrap()
}

/// Makes an image of a checkpoint, and returns its digest.
fn made(memory: &[u8], base: Option<&dyn Origin>, packing: Packing, mut depot: Box<dyn Depot>) -> Digest {
    let checkpoint = checkpoint(memory);
    let plan = Plan::as_it_is(&checkpoint, Description::read(&checkpoint).unwrap());
    let annotations = BTreeMap::from([(CHECKPOINT.to_owned(), "web".to_owned())]);
    let recipe = Recipe { checkpoint: &checkpoint, plan: &plan, base, packing, annotations };
    let image = build(&recipe, &mut *depot).unwrap();
    depot.finish().unwrap();
    image.digest
}

fn json(layout: &Path, digest: &str) -> Value {
    let path = layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_same_checkpoint_gives_the_same_image_wherever_it_goes() {
    let place = tempfile::tempdir().unwrap();
    for packing in [Packing::None, Packing::Gzip, Packing::Zstd] {
        let (layout, archive) = (place.path().join("layout"), place.path().join("image.tar"));
        let one = made(b"memory", None, packing, Box::new(Layout::new(&layout, None)));
        let other = made(b"memory", None, packing, Box::new(ArchiveDepot::create(&archive, None).unwrap()));
        assert_eq!(one, other);
        for path in [layout, archive] {
            let found = Checkpoint::new(open(&Place::Path(path)).unwrap()).unwrap();
            found.source().verify().unwrap();
            assert_eq!(found.bytes(found.entry("checkpoint/pages-1.img").unwrap(), 100).unwrap(), b"memory");
        }
    }
}

#[test]
fn a_checkpoint_on_an_image_is_one_more_layer_and_hides_an_older_one() {
    let place = tempfile::tempdir().unwrap();
    let paths = ["application", "first", "second"].map(|name| place.path().join(name));
    let [application, first, second] = &paths;
    made(b"", None, Packing::None, Box::new(Layout::new(application, None)));
    made(b"old", Some(&Layout::new(application, None)), Packing::Zstd, Box::new(Layout::new(first, None)));
    let base = Layout::new(first, None);
    let digest = made(b"new", Some(&base), Packing::Gzip, Box::new(Layout::new(second, Some("v2"))));
    let manifest = json(second, &digest.to_string());
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(manifest["annotations"][CHECKPOINT], "web");
    let config = json(second, manifest["config"]["digest"].as_str().unwrap());
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
    let last = second.join("blobs/sha256").join(&layers[2]["digest"].as_str().unwrap()[7..]);
    let names: Vec<_> =
        open(&Place::Path(last)).unwrap().entries().iter().map(|entry| entry.name.clone()).collect();
    assert_eq!(
        names[..3],
        [".torpor".to_owned(), ".torpor/checkpoint".to_owned(), format!("{BELOW}.wh..wh..opq")]
    );
    let found = Checkpoint::new(open(&Place::Path(second.clone())).unwrap()).unwrap();
    assert_eq!(found.bytes(found.entry("checkpoint/pages-1.img").unwrap(), 100).unwrap(), b"new");
}

#[test]
fn a_damaged_blob_is_not_passed_on() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    let digest = made(b"memory", None, Packing::None, Box::new(Layout::new(&from, None)));
    let manifest = json(&from, &digest.to_string());
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let path = from.join("blobs/sha256").join(&layer[7..]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[600] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let refused = copy(&Layout::new(&from, None), &mut Layout::new(&to, None)).unwrap_err();
    assert!(matches!(refused, OciError::Digest { .. }), "{refused}");
    assert!(!to.join("index.json").exists());
}

/// What a registry has.
#[derive(Debug, Default)]
struct Kept {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    upload: Vec<u8>,
    /// What it was asked, in order.
    asked: Vec<String>,
    broken: usize,
    /// How often a token was got; only the last one counts.
    tokens: usize,
    /// After each part of an upload the token is over: this is a registry whose tokens are short-lived.
    short_lived: bool,
    /// The last token is over.
    expired: bool,
}

/// A registry that wants a token, breaks off the first part of an upload and the first download in the middle, and says once that it is
/// busy.
fn registry() -> (String, Arc<Mutex<Kept>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let kept = Arc::new(Mutex::new(Kept::default()));
    let (own, name) = (Arc::clone(&kept), host.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever asks goes away when the test ends.
            let _ = serve(stream.unwrap(), &name, &own);
        }
    });
    (host, kept)
}

/// Answers one request; each has a connection of its own.
fn serve(stream: TcpStream, host: &str, kept: &Mutex<Kept>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    let mut line = String::new();
    input.read_line(&mut line)?;
    let (mut length, mut token, mut start) = (0, String::new(), 0);
    let mut header = String::new();
    while input.read_line(&mut header)? > 2 {
        let lower = header.to_ascii_lowercase();
        let number = |prefix: &str| {
            lower.strip_prefix(prefix).and_then(|rest| rest.trim().trim_end_matches('-').parse().ok())
        };
        length = number("content-length:").unwrap_or(length);
        start = number("range: bytes=").unwrap_or(start);
        if lower.starts_with("authorization:") {
            header.trim_end().rsplit(' ').next().unwrap_or_default().clone_into(&mut token);
        }
        header.clear();
    }
    let mut kept = kept.lock().unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    let (method, path) = (words[0], words[1]);
    kept.asked.push(format!("{method} {path}"));
    let mut say = |status: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        write!(
            output,
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        )?;
        if method == "HEAD" { Ok(()) } else { output.write_all(body) }
    };
    let place = "location: /v2/shop/web/blobs/uploads/1\r\n";
    if path.starts_with("/token") {
        (kept.tokens, kept.expired) = (kept.tokens + 1, false);
        return say("200 OK", "", format!(r#"{{"token": "let-me-in-{}"}}"#, kept.tokens).as_bytes());
    }
    if kept.expired || token != format!("let-me-in-{}", kept.tokens) {
        // Registries answer before they have read what comes, or after.
        if kept.tokens.is_multiple_of(2) {
            std::io::copy(&mut input.take(length as u64), &mut std::io::sink())?;
        }
        let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"it\"\r\n");
        return say("401 Unauthorized", &challenge, b"");
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    match (method, path) {
        ("PATCH", _) if kept.broken == 0 => {
            // Half of it comes, and then nothing.
            kept.broken += 1;
            let mut half = vec![0; length / 2];
            input.read_exact(&mut half)?;
            kept.upload = half;
            Ok(())
        }
        ("PATCH", _) => {
            let mut body = vec![0; length];
            input.read_exact(&mut body)?;
            kept.upload.extend(body);
            kept.expired = kept.short_lived;
            say("202 Accepted", place, b"")
        }
        ("POST", _) => {
            kept.upload.clear();
            say("202 Accepted", place, b"")
        }
        ("GET", path) if path.contains("/uploads/") => {
            let range = format!("{place}range: 0-{}\r\n", kept.upload.len() - 1);
            say("204 No Content", &range, b"")
        }
        ("PUT", path) if path.contains("/manifests/") => {
            let mut body = vec![0; length];
            input.read_exact(&mut body)?;
            kept.manifests.insert(last.to_owned(), body);
            say("201 Created", "", b"")
        }
        ("PUT", path) => {
            let mut body = vec![0; length];
            input.read_exact(&mut body)?;
            kept.upload.extend(body);
            let digest = path.split_once("digest=").unwrap().1.to_owned();
            let upload = std::mem::take(&mut kept.upload);
            assert_eq!(Digest::of(&upload).to_string(), digest);
            kept.blobs.insert(digest, upload);
            say("201 Created", "", b"")
        }
        (_, path) if path.contains("/manifests/") => match kept.manifests.get(last) {
            Some(manifest) => {
                say("200 OK", "content-type: application/vnd.oci.image.manifest.v1+json\r\n", manifest)
            }
            None => say("404 Not Found", "", b""),
        },
        _ => {
            let Some(blob) = kept.blobs.get(last).cloned() else { return say("404 Not Found", "", b"") };
            if method == "GET" && kept.broken == 1 {
                kept.broken += 1;
                return say("503 Busy", "retry-after: 0\r\n", b"");
            }
            if method == "GET" && kept.broken == 2 && blob.len() > 1000 {
                kept.broken += 1;
                write!(
                    output,
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    blob.len()
                )?;
                return output.write_all(&blob[..blob.len() / 2]);
            }
            let status = if start == 0 { "200 OK" } else { "206 Partial" };
            say(status, "", &blob[start..])
        }
    }
}

#[test]
fn a_token_that_expires_midway_through_an_upload_is_got_anew() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    let memory: Vec<u8> =
        (0..500_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    made(&memory, None, Packing::None, Box::new(Layout::new(&from, None)));
    let (host, kept) = registry();
    let short_lived = Kept { short_lived: true, broken: 9, ..Kept::default() };
    *kept.lock().unwrap() = short_lived;
    let access = Access { plain: true, chunk: Some(64 << 10), ..Access::default() };
    let mut remote = Remote::new(format!("{host}/shop/web:1").parse().unwrap(), &access).unwrap();
    copy(&Layout::new(&from, None), &mut remote).unwrap();
    let kept = kept.lock().unwrap();
    // A blob is only kept where its digest is right.
    assert!(kept.blobs.values().any(|blob| blob.len() > memory.len()) && kept.manifests.contains_key("1"));
    assert!(kept.tokens >= 8, "only {} tokens", kept.tokens);
}

#[test]
fn what_breaks_on_the_way_goes_on_where_it_broke() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to.tar"));
    let memory: Vec<u8> =
        (0..200_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let digest = made(&memory, None, Packing::None, Box::new(Layout::new(&from, None)));
    let (host, kept) = registry();
    let access = Access { plain: true, chunk: Some(64 << 10), ..Access::default() };
    let remote = || Remote::new(format!("{host}/shop/web:1").parse().unwrap(), &access).unwrap();
    copy(&Layout::new(&from, None), &mut remote()).unwrap();
    assert_eq!(kept.lock().unwrap().broken, 1, "an upload broke off");
    let mut depot = Box::new(ArchiveDepot::create(&to, None).unwrap());
    assert_eq!(copy(&remote(), &mut *depot).unwrap().digest, digest);
    depot.finish().unwrap();
    assert_eq!(kept.lock().unwrap().broken, 3, "a download broke off");
    assert!(open_archive(&to, &Limits::default()).unwrap().entries().len() == 5);
    let found = Checkpoint::new(open(&Place::Path(to)).unwrap()).unwrap();
    found.source().verify().unwrap();
    let before = kept.lock().unwrap().asked.len();
    copy(&Layout::new(&from, None), &mut remote()).unwrap();
    let kept = kept.lock().unwrap();
    let uploads = kept.asked[before..].iter().filter(|asked| asked.starts_with("POST"));
    assert_eq!(uploads.count(), 0, "what is there is not sent again");
}
