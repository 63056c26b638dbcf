package waybill.billing;

import javax.crypto.Cipher;
import javax.crypto.spec.SecretKeySpec;

public class CardVault {
    private static final String vaultSecret = "example-vault-secret";

    public byte[] seal(byte[] card) throws Exception {
        Cipher cipher = Cipher.getInstance("AES/ECB/PKCS5Padding");
        cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(vaultSecret.getBytes(), "AES"));
        return cipher.doFinal(card);
    }

    public byte[] sealOld(byte[] card, SecretKeySpec key) throws Exception {
        Cipher cipher = Cipher.getInstance("DES");
        cipher.init(Cipher.ENCRYPT_MODE, key);
        return cipher.doFinal(card);
    }
}
