"""Authlib's requests client; authlib_test.go sets what it knows of the mesh."""

import os
import unittest

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

ISSUER = os.environ["ISSUER"]
TOKEN = ISSUER + "/oauth2/token"


def read(name):
    with open(os.environ[name], encoding="ascii") as f:
        return f.read()


class Authlib(unittest.TestCase):
    def issue(self, client_id, secret, method, assertion=None):
        with OAuth2Session(client_id, secret, scope="reports:read", token_endpoint_auth_method=method) as session:
            if assertion:
                session.register_client_auth_method(assertion)
            token = session.fetch_token(TOKEN, grant_type="client_credentials", audience="https://reports.example")
        self.assertEqual(token["scope"], "reports:read")
        self.assertEqual(token["token_type"], "Bearer")

    def test_basic(self):
        self.issue("ci", os.environ["SECRET"], "client_secret_basic")

    def test_post(self):
        self.issue("ci", os.environ["SECRET"], "client_secret_post")

    def test_wrong_secret(self):
        with self.assertRaises(OAuthError) as refused:
            self.issue("ci", "css_wrong", "client_secret_basic")
        self.assertEqual(refused.exception.error, "invalid_client")

    def test_private_key_jwt(self):
        """The audience is the issuer, as for every client."""
        self.issue("batch", ECKey.import_key(read("EC_KEY")), "private_key_jwt", PrivateKeyJWT(token_endpoint=ISSUER, alg="ES256"))

    def test_private_key_jwt_by_default(self):
        """RS256, and the audience is the token endpoint: assertionAudience and assertionAlgs allow it."""
        self.issue("old", read("RSA_KEY"), "private_key_jwt", PrivateKeyJWT(TOKEN))
        self.issue("old", read("RSA_KEY"), "private_key_jwt", PrivateKeyJWT())

    def test_one_audience_each(self):
        """Neither client may use the audience of the other."""
        for client_id, key, method in [
            ("batch", ECKey.import_key(read("EC_KEY")), PrivateKeyJWT(TOKEN, alg="ES256")),
            ("old", read("RSA_KEY"), PrivateKeyJWT(ISSUER)),
        ]:
            with self.assertRaises(OAuthError) as refused:
                self.issue(client_id, key, "private_key_jwt", method)
            self.assertEqual(refused.exception.error, "invalid_client")


if __name__ == "__main__":
    unittest.main()
