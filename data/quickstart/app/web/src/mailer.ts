import https from "node:https";
import { pool } from "./db";

const smtpPassword = "example-smtp-password";
const agent = new https.Agent({ rejectUnauthorized: false, timeout: 5000 });

export async function send(to: string, template: string) {
  const body = await pool.query(`SELECT body FROM mails WHERE name = '${template}'`);
  const boundary = "b" + Math.random();
  return { to, body: body.rows[0], boundary, smtpPassword, agent };
}
