// A real OpenID provider on loopback for the tests: PKCE, DPoP with nonces, JWT access tokens for a resource.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const people = {
  ada: { name: "Ada Steward", roles: ["steward"], site: "north", acr: "gold", amr: ["pwd", "otp", "mfa"] },
  bob: { name: "Bob", roles: ["steward"], site: "north", acr: "bronze", amr: ["pwd"] },
  carl: { name: "Carl", roles: ["steward"], site: "south", acr: "gold", amr: ["hwk"] },
};
const about = (ctx, token) => {
  const { AuthorizationCode: code, RefreshToken: refresh, Session: session } = ctx.oidc.entities;
  const authTime = (code ?? refresh)?.authTime ?? session?.authTime();
  return { ...people[token.accountId], auth_time: authTime, sid: token.grantId };
};

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "wardround",
      application_type: "native",
      token_endpoint_auth_method: "none",
      redirect_uris: ["http://127.0.0.1/callback"],
      grant_types: ["authorization_code", "refresh_token"],
      id_token_signed_response_alg: "ES256",
      dpop_bound_access_tokens: true,
    },
    {
      client_id: "hospital",
      client_secret: "a secret of the hospital's own",
      application_type: "native",
      token_endpoint_auth_method: "client_secret_basic",
      redirect_uris: ["http://127.0.0.1/callback"],
      grant_types: ["authorization_code", "refresh_token"],
      id_token_signed_response_alg: "ES256",
      dpop_bound_access_tokens: true,
    },
  ],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), alg: "ES256", use: "sig", kid: `k${process.pid}` }] },
  acrValues: ["gold", "bronze"],
  claims: { openid: ["sub"], profile: ["name"], acr: null, auth_time: null },
  findAccount: (_, sub) => (people[sub] ? { accountId: sub, claims: () => ({ sub, name: people[sub].name }) } : undefined),
  issueRefreshToken: async () => true,
  conformIdTokenClaims: false,
  scopes: ["openid", "profile"],
  cookies: { keys: [randomBytes(16).toString("hex")] },
  extraTokenClaims: about,
  features: {
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
    devInteractions: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({
        scope: "",
        audience: resource,
        accessTokenTTL: 300,
        ...(resource.endsWith("opaque")
          ? { accessTokenFormat: "opaque" }
          : { accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } }),
      }),
      useGrantedResource: () => true,
    },
  },
});
createServer(provider.callback()).listen(port, "127.0.0.1", () => console.log("ready"));
