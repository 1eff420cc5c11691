//! What `torpor run` is told, and what crik's command line is.

use assert_cmd::Command;

#[test]
fn what_is_printed_as_the_configuration_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let print = |arguments: &[&str], grace: Option<&str>| {
        let mut command = Command::cargo_bin("torpor").unwrap();
        command.env("TORPOR_RUNTIME_DIR", "/run").envs(grace.map(|grace| ("TORPOR_GRACE", grace)));
        let output = command.arg("run").arg("--print-config").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "every: 5m\n").unwrap();
    let config_path = format!("--config-path={}", path.display());
    let first = print(&[&config_path, "--tcp", "fail", "--", "sleep", "1"], Some("40s"));
    for lines in [
        format!("From {}.\nevery: 5m\n", path.display()),
        "From --tcp.\ntcp: fail\n".to_owned(),
        "From TORPOR_GRACE.\ngrace: 40s\n".to_owned(),
        "Default.\nexitCode: 143\n".to_owned(),
    ] {
        assert!(first.contains(&lines), "{lines} is missing in\n{first}");
    }

    std::fs::write(&path, &first).unwrap();
    let second = print(&[&config_path, "--", "sleep", "1"], None);
    let values =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    assert_eq!(values(&second), values(&first));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let mut command = Command::cargo_bin("torpor").unwrap();
    let output = command.env("TORPOR_GRACE", "5x").args(["run", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.starts_with("error: TORPOR_GRACE: \"5x\" is no duration"), "{err}");
}

#[test]
fn called_crik_it_takes_criks_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let crik = dir.path().join("crik");
    std::os::unix::fs::symlink(assert_cmd::cargo::cargo_bin!("torpor"), &crik).unwrap();
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, "imageDir: relative/path\nimageDri: /x\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(&crik).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let config_path = format!("--config-path={}", config.display());
    let (code, err) = run(&["--debug", "run", &config_path, "--", "true"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("imageDir in ") && err.contains("\"relative/path\" is no absolute path"), "{err}");
    assert_eq!(run(&["checkpoint"]).0, Some(2));
    assert_eq!(run(&["run", &config_path]).0, Some(2));
}
