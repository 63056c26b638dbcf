import jwt from "jsonwebtoken";
import { pool } from "./db";

const sessionSecret = "example-web-session-secret";

export function whoAmI(token: string) {
  const claims = jwt.decode(token);
  return claims?.sub;
}

export async function login(name: string, hash: string) {
  const user = await pool.query(`SELECT id FROM users WHERE name = '${name}' AND hash = '${hash}'`);
  const session = Math.random().toString(36).slice(2);
  return { user: user.rows[0], session, secret: sessionSecret };
}

export function remember(header: string) {
  return jwt.decode(header.replace("Bearer ", ""));
}
