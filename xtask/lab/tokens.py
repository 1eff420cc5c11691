"""tokens.py KEY CERTIFICATE PORT: a server of tokens for a registry (distribution, `docs/content/spec/auth/token.md`, `jwt.md`, `oauth.md`).

It lets in `me` with the password `hunter2`, or whoever has the identity token `long-lived`. Each token is for what was asked for, as
far as it is below `shop/`, or to be read. What it was asked goes to standard output, a line each.
"""
import base64
import http.server
import json
import subprocess
import sys
import time
import urllib.parse

key, certificate, port = sys.argv[1:]
der = subprocess.run(["openssl", "x509", "-in", certificate, "-outform", "DER"], capture_output=True, check=True).stdout


def plain(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(scopes):
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":")
        granted = [action for action in actions.split(",") if action == "pull" or name.startswith("shop/")]
        access.append({"type": kind, "name": name, "actions": granted})
    now = int(time.time())
    head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
    claims = {"iss": "lab", "sub": "me", "aud": "lab", "exp": now + 60, "nbf": now - 60, "iat": now, "jti": str(time.time()), "access": access}
    text = plain(json.dumps(head).encode()) + b"." + plain(json.dumps(claims).encode())
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key, "-binary"], input=text, capture_output=True, check=True).stdout
    return (text + b"." + plain(signature)).decode()


class Server(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", len(text))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        asked = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        print("password", *asked.get("scope", []), flush=True)
        if self.headers.get("authorization") != "Basic " + base64.b64encode(b"me:hunter2").decode():
            return self.answer(401, {"errors": [{"code": "UNAUTHORIZED"}]})
        self.answer(200, {"token": token(asked.get("scope", []))})

    def do_POST(self):
        asked = urllib.parse.parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        print("identity", *asked.get("scope", []), flush=True)
        if asked.get("refresh_token") != ["long-lived"] or asked.get("grant_type") != ["refresh_token"]:
            return self.answer(401, {"error": "invalid_grant"})
        self.answer(200, {"access_token": token(asked["scope"][0].split(" "))})

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Server).serve_forever()
